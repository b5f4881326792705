"""Each transition of the receiver's machine, one at a time, on virtual time."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.core import reasons
from tandem.core.blocks import BlockRef
from tandem.kvtransfer.digest import SealedRange, derive_keys, seal_mac
from tandem.kvtransfer.frames import Chunk, Open, Seal
from tandem.kvtransfer.machine import receiver_events as rx
from tandem.kvtransfer.machine.receiver import HandoverReceiver, ReceiverState
from tests.unit.kvtransfer.machine_world import BLOCK_BYTES, CHUNK_BYTES, KEY, TAG, grant_of


def opened(num_blocks: int = 2, *, deadline_left_s: float = 100.0) -> HandoverReceiver:
    grant = grant_of(num_blocks, deadline_left_s=deadline_left_s)
    receiver = HandoverReceiver(grant=grant, block_bytes=BLOCK_BYTES, token_digest=b"tok", now_s=0.0)
    receiver.on_event(0.0, rx.Opened(Open(TAG, 1, 7, 0, num_blocks, CHUNK_BYTES, KEY.request_id)))
    return receiver


def chunk_of(seq: int) -> Chunk:
    ordinal, piece = divmod(seq, 3)
    return Chunk(TAG, 7, seq, 10 + ordinal, 3, piece * 4, (4, 4, 2)[piece], bytes([seq] * 16), None)


def seal_of(num_blocks: int = 2, *, payload: bytes = b"pay", token_digest: bytes = b"tok") -> Seal:
    num_chunks = num_blocks * 3
    digests = b"".join(bytes([seq] * 16) for seq in range(num_chunks))
    mac = seal_mac(
        derive_keys(b"s" * 16),
        fingerprint="0" * 64,
        token_digest=token_digest,
        sent=SealedRange(num_blocks=num_blocks),
        digests=digests,
        payload=payload,
    )
    return Seal(TAG, 7, num_blocks, num_chunks, num_blocks * BLOCK_BYTES, 1500, mac, payload)


def land(receiver: HandoverReceiver, seq: int) -> list[rx.ReceiverAction]:
    chunk = chunk_of(seq)
    write = receiver.on_event(1.0, rx.ChunkArrived(chunk))
    assert write == [rx.Write(BlockRef(chunk.block_id, 3), chunk.offset, chunk.length)]
    return receiver.on_event(1.0, rx.ChunkLanded(chunk, chunk.digest))


@given(st.permutations(range(7)))
def test_ready_once_and_only_when_all_is_there(order: list[int]) -> None:
    """Failure mode 20: the seal is event 6, in any place."""
    receiver = opened()
    results = [receiver.on_event(1.0, rx.SealGot(seal_of())) if seq == 6 else land(receiver, seq) for seq in order]
    ready = [action for actions in results for action in actions if isinstance(action, rx.Ready)]
    assert ready == [rx.Ready(b"pay", 0.0015)]
    assert isinstance(results[-1][-1], rx.Ready)
    assert receiver.on_event(1.0, rx.Adopted()) == [rx.SendCommit("")]


BAD_CHUNKS: list[tuple[dict[str, int], str, bool]] = [
    ({"epoch": 6}, "stale_epoch", False),
    ({"generation": 2}, "stale_generation", False),
    ({"generation": 4}, "stale_generation", False),
    ({"block_id": 11}, "not_granted", True),
    ({"block_id": 2**32 - 1}, "not_granted", True),
    ({"seq": 6}, "out_of_bounds", True),
    ({"seq": 2**32 - 1}, "out_of_bounds", True),
    ({"seq": 1}, "out_of_bounds", True),
    ({"offset": 1}, "out_of_bounds", True),
    ({"offset": 8}, "out_of_bounds", True),
    ({"offset": 2**32 - 1}, "out_of_bounds", True),
    ({"length": 3}, "out_of_bounds", True),
    ({"length": 5}, "out_of_bounds", True),
    ({"length": 0}, "out_of_bounds", True),
]


@pytest.mark.parametrize(("change", "counter", "is_hostile"), BAD_CHUNKS)
def test_chunks_outside_the_grant_are_dropped(change: dict[str, int], counter: str, is_hostile: bool) -> None:
    receiver = opened()
    actions = receiver.on_event(1.0, rx.ChunkArrived(replace(chunk_of(0), **change)))  # type: ignore[arg-type]
    assert actions[0] == rx.Drop(counter)
    assert receiver.is_done is is_hostile
    assert (rx.Failed(reasons.KV_INTEGRITY, True) in actions) is is_hostile


NEAR = {  # per field: what is legal somewhere, and its neighbours
    "epoch": st.sampled_from([6, 7, 8]),
    "seq": st.integers(0, 7),
    "block_id": st.sampled_from([9, 10, 11, 12]),
    "generation": st.sampled_from([2, 3, 4]),
    "offset": st.sampled_from([0, 1, 4, 8, 10]),
    "length": st.sampled_from([0, 1, 2, 3, 4, 5]),
}


@given(st.integers(0, 5), st.fixed_dictionaries({}, optional=NEAR))
def test_a_chunk_is_written_to_its_one_place_or_not_at_all(seq: int, change: dict[str, int]) -> None:
    chunk = replace(chunk_of(seq), **change)  # type: ignore[arg-type]
    writes = [a for a in opened().on_event(1.0, rx.ChunkArrived(chunk)) if isinstance(a, rx.Write)]
    is_legal = chunk.seq < 6 and chunk == replace(chunk_of(chunk.seq), digest=chunk.digest)
    assert writes == ([rx.Write(BlockRef(chunk.block_id, 3), chunk.offset, chunk.length)] if is_legal else [])


def test_duplicates_change_nothing() -> None:
    receiver = opened()
    receiver.on_event(1.0, rx.ChunkArrived(chunk_of(0)))
    assert receiver.on_event(1.0, rx.ChunkArrived(chunk_of(0))) == [rx.Drop("duplicate_chunk")]  # still being written
    receiver.on_event(1.0, rx.ChunkLanded(chunk_of(0), chunk_of(0).digest))
    assert receiver.on_event(1.0, rx.ChunkArrived(chunk_of(0))) == [rx.Drop("duplicate_chunk")]
    assert receiver.num_chunks_landed == 1
    for seq in range(1, 6):
        land(receiver, seq)
    receiver.on_event(1.0, rx.SealGot(seal_of()))
    assert receiver.on_event(1.0, rx.SealGot(seal_of())) == []  # verified, not adopted yet
    receiver.on_event(1.0, rx.Adopted())
    assert receiver.on_event(1.0, rx.SealGot(seal_of())) == [rx.SendCommit("")]
    assert receiver.on_event(1.0, rx.ChunkArrived(chunk_of(1))) == [rx.Drop("duplicate_chunk")]
    assert receiver.on_event(1.0, rx.Adopted()) == []
    assert receiver.on_event(1.0, rx.CommitAckGot()) == [rx.Forget()]
    assert receiver.on_event(1.0, rx.ChunkArrived(chunk_of(1))) == [rx.Drop("stale_generation")]


def test_digest_of_what_landed_counts() -> None:
    receiver = opened()
    receiver.on_event(1.0, rx.ChunkArrived(chunk_of(0)))
    actions = receiver.on_event(1.0, rx.ChunkLanded(chunk_of(0), b"x" * 16))
    assert actions == [
        rx.Drop("digest_mismatch"),
        rx.SendAbort(reasons.KV_INTEGRITY),
        rx.Failed(reasons.KV_INTEGRITY, True),
        rx.Forget(),
    ]


WRONG_SEALS = [
    replace(seal_of(), mac=bytes(32)),
    replace(seal_of(), payload=b"other first tokens"),
    replace(seal_of(), num_blocks=1),
    replace(seal_of(), num_chunks=5),
    replace(seal_of(), num_bytes=1),
    seal_of(token_digest=b"other prompt"),
    seal_of(1),
]


@pytest.mark.parametrize("seal", WRONG_SEALS)
def test_seals_that_do_not_fit_fail_it(seal: Seal) -> None:
    receiver = opened()
    for seq in range(6):
        land(receiver, seq)
    assert receiver.on_event(1.0, rx.SealGot(seal))[0] == rx.Drop("digest_mismatch")
    assert receiver.is_done


def test_swapped_blocks_do_not_fit_the_seal() -> None:
    """The seal binds the order: the right chunks in each other's places are found, though each digest is right."""
    receiver = opened()
    for seq in range(6):
        other = (seq + 3) % 6
        chunk = replace(chunk_of(seq), digest=bytes([other] * 16))
        receiver.on_event(1.0, rx.ChunkArrived(chunk))
        receiver.on_event(1.0, rx.ChunkLanded(chunk, chunk.digest))
    assert receiver.on_event(1.0, rx.SealGot(seal_of()))[0] == rx.Drop("digest_mismatch")


@pytest.mark.parametrize("change", [{"request_id": "b" * 32}, {"attempt": 1}, {"num_blocks": 1}, {"chunk_bytes": 5}])
def test_open_must_name_the_same_transfer(change: dict[str, object]) -> None:
    receiver = HandoverReceiver(grant=grant_of(2), block_bytes=BLOCK_BYTES, token_digest=b"", now_s=0.0)
    frame = replace(Open(TAG, 1, 7, 0, 2, CHUNK_BYTES, KEY.request_id), **change)  # type: ignore[arg-type]
    assert rx.Failed(reasons.KV_INTEGRITY, False) in receiver.on_event(0.0, rx.Opened(frame))


def test_chunk_before_open_is_not_written() -> None:
    receiver = HandoverReceiver(grant=grant_of(2), block_bytes=BLOCK_BYTES, token_digest=b"", now_s=0.0)
    assert receiver.on_event(0.0, rx.ChunkArrived(chunk_of(0))) == [rx.Drop("unknown_transfer")]
    assert receiver.on_event(0.0, rx.SealGot(seal_of())) == []


def test_receiver_idle_timeout_and_the_senders_beats() -> None:
    receiver = opened()
    for now_s in range(1, 60):
        receiver.on_event(float(now_s), rx.PeerBeat())
        assert receiver.on_event(now_s + 0.9, rx.Tick()) == []
    assert receiver.on_event(65.5, rx.Tick())[-2:] == [rx.Failed(reasons.KV_TIMEOUT, True), rx.Forget()]


def test_beats_do_not_excuse_a_chunk_that_never_ends() -> None:
    receiver = opened()
    receiver.on_event(1.0, rx.ChunkArrived(chunk_of(0)))
    receiver.on_event(2.9, rx.PeerBeat())
    assert receiver.on_event(6.0, rx.Tick()) == []
    assert rx.Failed(reasons.KV_TIMEOUT, True) in receiver.on_event(6.1, rx.Tick())


def test_waiting_for_the_sender_is_bounded_by_the_deadline_only() -> None:
    receiver = HandoverReceiver(
        grant=grant_of(2, deadline_left_s=20.0), block_bytes=BLOCK_BYTES, token_digest=b"", now_s=0.0
    )
    assert receiver.on_event(19.0, rx.Tick()) == []
    assert rx.Failed(reasons.KV_TIMEOUT, True) in receiver.on_event(20.1, rx.Tick())


def test_receiver_s_bound_after_the_seal_is_a_time_out() -> None:
    receiver = opened(3, deadline_left_s=600.0)
    receiver.on_event(1.0, rx.SealGot(seal_of(3)))
    for seq in range(8):  # of nine: they trickle in
        now_s = 1.0 + 3.7 * seq
        assert receiver.on_event(now_s, rx.Tick()) == []
        receiver.on_event(now_s, rx.ChunkArrived(chunk_of(seq)))
        receiver.on_event(now_s, rx.ChunkLanded(chunk_of(seq), chunk_of(seq).digest))
    assert receiver.on_event(30.9, rx.Tick()) == []
    assert rx.Failed(reasons.KV_TIMEOUT, True) in receiver.on_event(31.1, rx.Tick())


def test_beats_do_not_excuse_a_chunk_that_was_lost_before_the_seal() -> None:
    receiver = opened(deadline_left_s=600.0)
    for seq in range(5):
        land(receiver, seq)
    receiver.on_event(2.0, rx.SealGot(seal_of()))
    failed_s = 0.0
    for now_s in range(3, 20):  # the sender keeps saying that it is alive
        receiver.on_event(float(now_s), rx.PeerBeat())
        if rx.Failed(reasons.KV_TIMEOUT, True) in receiver.on_event(float(now_s), rx.Tick()):
            failed_s = float(now_s)
            break
    assert failed_s == 11.0  # eight times the slowest step of 1 s, from the seal


def test_commit_is_repeated_until_acknowledged_or_given_up() -> None:
    receiver = opened(1)
    for seq in range(3):
        land(receiver, seq)
    receiver.on_event(1.0, rx.SealGot(seal_of(1)))
    assert receiver.on_event(500.0, rx.Tick()) == []  # verified: no clock takes it back
    receiver.on_event(10.0, rx.Adopted())
    assert receiver.on_event(10.5, rx.Tick()) == []
    assert receiver.on_event(11.0, rx.Tick()) == [rx.SendCommit("")]
    assert receiver.on_event(11.5, rx.Tick()) == []
    assert receiver.on_event(25.0, rx.Tick()) == [rx.Forget()]
    assert receiver.state is ReceiverState.DONE


@pytest.mark.parametrize("event", [rx.Ended("LOST"), rx.AbortGot("LOST")])
def test_a_lost_sender_matters_only_before_the_verdict(event: rx.ReceiverEvent) -> None:
    early = opened(1)
    land(early, 0)
    assert early.on_event(1.0, event) == [rx.Failed("LOST", True), rx.Forget()]
    verified = opened(1)
    for seq in range(3):
        land(verified, seq)
    verified.on_event(1.0, rx.SealGot(seal_of(1)))
    assert verified.on_event(1.0, event) == []
    assert verified.on_event(1.0, rx.Adopted()) == [rx.SendCommit("")]
    assert verified.on_event(1.0, event) == [rx.Forget()]


@pytest.mark.parametrize("num_landed", range(4))
def test_abort_at_each_chunk_index(num_landed: int) -> None:
    receiver = opened(1)
    for seq in range(num_landed):
        land(receiver, seq)
    assert receiver.on_event(1.0, rx.AbortAsked("X")) == [rx.SendAbort("X"), rx.Forget()]
    assert receiver.on_event(1.0, rx.AbortAsked("X")) == []
    assert receiver.on_event(1.0, rx.ChunkArrived(chunk_of(0))) == [rx.Drop("stale_generation")]
    assert receiver.on_event(1.0, rx.SealGot(seal_of(1))) == []
