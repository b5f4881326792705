"""Each transition of the sender's machine, one at a time, on virtual time."""

import itertools
from collections.abc import Sequence

import pytest

from tandem.core import reasons
from tandem.core.blocks import BlockRef
from tandem.kvtransfer.digest import SealedRange, derive_keys, seal_mac
from tandem.kvtransfer.machine import sender_events as tx
from tandem.kvtransfer.machine.sender import CREDIT_WINDOW_CHUNKS, HandoverSender, SenderState
from tandem.kvtransfer.timing import IDLE_FLOOR_S
from tests.unit.kvtransfer.machine_world import BLOCK_BYTES, KEY, grant_of


def new_sender() -> HandoverSender:
    return HandoverSender(key=KEY, fingerprint="0" * 64, block_bytes=BLOCK_BYTES, now_s=0.0)


def run_sender(sender: HandoverSender, events: Sequence[tx.SenderEvent]) -> list[tx.SenderAction]:
    """Feed events; every chunk is sent at once and lands at once."""
    done: list[tx.SenderAction] = []
    queue: list[tx.SenderEvent] = list(events)
    landed = 0
    while queue:
        for action in sender.on_event(1.0, queue.pop(0)):
            done.append(action)
            if isinstance(action, tx.SendChunk):
                landed += 1
                queue = [tx.ChunkSent(action.seq, bytes([action.seq] * 16)), tx.CreditGiven(landed), *queue]
    return done


def start(num_blocks: int) -> list[tx.SenderEvent]:
    offers = [tx.Offered(index, BlockRef(index, 1)) for index in range(num_blocks)]
    return [tx.Granted(grant_of(num_blocks)), *offers, tx.Sealed(num_blocks, b"tok", b"pay")]


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_grant_offers_and_seal_come_in_any_order(order: tuple[int, ...]) -> None:
    events = start(2)
    actions = run_sender(new_sender(), [events[index] for index in order])
    chunks = [action for action in actions if isinstance(action, tx.SendChunk)]
    assert sorted(chunk.seq for chunk in chunks) == list(range(6))
    assert {(chunk.source.block_id, chunk.target.block_id) for chunk in chunks} == {(0, 10), (1, 11)}
    seals = [action for action in actions if isinstance(action, tx.SendSeal)]
    assert len(seals) == 1
    assert isinstance(actions[-1], tx.SendSeal)
    digests = b"".join(bytes([seq] * 16) for seq in range(6))
    keys = derive_keys(b"s" * 16)
    sent = SealedRange(num_blocks=2)
    mac = seal_mac(keys, fingerprint="0" * 64, token_digest=b"tok", sent=sent, digests=digests, payload=b"pay")
    assert seals[0].mac == mac


def test_open_comes_before_every_chunk() -> None:
    actions = run_sender(new_sender(), start(2))
    assert isinstance(next(a for a in actions if not isinstance(a, tx.StartLease)), tx.SendOpen)


def test_window_bounds_what_is_on_its_way() -> None:
    sender = new_sender()
    sender.on_event(0.0, tx.Granted(grant_of(10)))
    emitted = 0
    for index in range(10):
        emitted += len(sender.on_event(0.0, tx.Offered(index, BlockRef(index, 1))))
    assert emitted == CREDIT_WINDOW_CHUNKS
    assert len(sender.on_event(0.0, tx.CreditGiven(3))) == 3
    assert sender.on_event(0.0, tx.CreditGiven(3)) == []  # repeated
    assert sender.on_event(0.0, tx.CreditGiven(2)) == []  # older
    assert sender.on_event(0.0, tx.CreditGiven(99)) == []  # never sent so many


def test_commit_ends_it_and_is_answered_again() -> None:
    sender = new_sender()
    run_sender(sender, start(1))
    assert sender.state is SenderState.SEALED
    assert sender.on_event(1.0, tx.CommitGot("")) == [tx.SendCommitAck(), tx.Committed()]
    assert sender.on_event(1.0, tx.CommitGot("")) == [tx.SendCommitAck()]
    assert sender.on_event(1.0, tx.AbortAsked("X")) == []


def test_commit_before_the_seal_is_ignored() -> None:
    sender = new_sender()
    run_sender(sender, start(1)[:-1])
    assert sender.on_event(1.0, tx.CommitGot("")) == []
    assert not sender.is_done


ENDINGS: list[tuple[tx.SenderEvent, list[tx.SenderAction]]] = [
    (tx.AbortAsked("WHY"), [tx.SendAbort("WHY")]),
    (tx.AbortGot("WHY"), [tx.Failed("WHY", True)]),
    (tx.Ended("WHY", False), [tx.Failed("WHY", False)]),
    (tx.SourceGone(), [tx.SendAbort(reasons.KV_LEASE), tx.Failed(reasons.KV_LEASE, True)]),
    (tx.CommitGot("WHY"), [tx.SendCommitAck(), tx.Failed("WHY", True)]),
]


@pytest.mark.parametrize(("event", "expected"), ENDINGS)
@pytest.mark.parametrize("progress", [0, 1, 2, 3, 4])
def test_endings_from_every_state(event: tx.SenderEvent, expected: list[tx.SenderAction], progress: int) -> None:
    sender = new_sender()
    run_sender(sender, start(2)[:progress])
    assert sender.on_event(1.0, event) == expected
    for late in (*start(2), tx.Tick(), tx.CreditGiven(1), tx.ChunkSent(0, b""), event):
        assert [a for a in sender.on_event(1e9, late) if not isinstance(a, tx.SendCommitAck)] == []


@pytest.mark.parametrize(
    "events",
    [
        [tx.Granted(grant_of(2)), tx.Offered(2, BlockRef(0, 1))],
        [tx.Offered(2, BlockRef(0, 1)), tx.Granted(grant_of(2))],
        [tx.Granted(grant_of(2)), tx.Sealed(3, b"", b"")],
        [tx.Sealed(1, b"", b""), tx.Granted(grant_of(2))],
    ],
)
def test_different_block_counts_are_refused(events: list[tx.SenderEvent]) -> None:
    actions = run_sender(new_sender(), events)
    assert actions[-1] == tx.Failed(reasons.KV_INTEGRITY, False)


def test_sender_idle_timeout_needs_something_outstanding() -> None:
    sender = new_sender()
    sender.on_event(0.0, tx.Granted(grant_of(2)))
    assert sender.on_event(60.0, tx.Tick()) == []  # nothing offered yet: the engine computes
    sender.on_event(60.0, tx.Offered(0, BlockRef(0, 1)))
    assert sender.on_event(65.9, tx.Tick()) == []
    assert sender.on_event(66.1, tx.Tick())[-1] == tx.Failed(reasons.KV_TIMEOUT, True)


def test_sender_bounds_are_time_outs_and_leave_the_request_s_deadline_to_the_router() -> None:
    sender = new_sender()
    sender.on_event(0.0, tx.Granted(grant_of(1, deadline_left_s=5.0)))
    assert sender.on_event(4.9, tx.Tick()) == []
    assert sender.on_event(5.1, tx.Tick()) == [tx.SendAbort(reasons.KV_TIMEOUT), tx.Failed(reasons.KV_TIMEOUT, True)]
    sealed = new_sender()
    run_sender(sealed, start(1))
    for now_s in range(3, 31):  # the receiver says that it still wants it
        assert sealed.on_event(float(now_s), tx.BeatGot(True)) == [tx.RenewLease()]
        assert sealed.on_event(now_s + 0.9, tx.Tick()) == []
    assert sealed.on_event(31.1, tx.Tick())[-1] == tx.Failed(reasons.KV_TIMEOUT, True)


def test_a_sealed_hand_over_without_verdict_or_beat_is_given_up_as_soon_as_a_silent_one() -> None:
    """All of it may lie in a socket's buffer, with nobody at the other end."""
    sender = new_sender()
    sender.on_event(0.0, tx.Granted(grant_of(1)))
    sender.on_event(0.0, tx.Offered(0, BlockRef(0, 1)))
    for seq in range(3):
        sender.on_event(1.0, tx.ChunkSent(seq, bytes(16)))
    assert isinstance(sender.on_event(2.0, tx.Sealed(1, b"tok", b"pay"))[-1], tx.SendSeal)
    assert sender.on_event(IDLE_FLOOR_S - 0.1, tx.Tick()) == []  # counted from the chunks: they never landed
    assert sender.on_event(IDLE_FLOOR_S + 0.1, tx.Tick())[-1] == tx.Failed(reasons.KV_TIMEOUT, True)


def test_a_long_prefill_before_the_seal_is_no_silence() -> None:
    sender = new_sender()
    sender.on_event(0.0, tx.Granted(grant_of(1)))
    sender.on_event(0.0, tx.Offered(0, BlockRef(0, 1)))
    for seq in range(3):
        sender.on_event(0.0, tx.ChunkSent(seq, bytes(16)))
    sender.on_event(0.1, tx.CreditGiven(3))
    sender.on_event(60.0, tx.Sealed(1, b"tok", b"pay"))
    assert sender.on_event(65.9, tx.Tick()) == []
    assert sender.on_event(66.1, tx.Tick())[-1] == tx.Failed(reasons.KV_TIMEOUT, True)


def test_a_grant_after_the_seal_does_not_lengthen_the_bound_that_began_with_it() -> None:
    sender = new_sender()
    sender.on_event(0.0, tx.Sealed(1, b"tok", b"pay"))
    sender.on_event(10.0, tx.Granted(grant_of(1, deadline_left_s=600.0)))
    assert sender.on_event(29.9, tx.Tick()) == []
    assert sender.on_event(30.1, tx.Tick())[-1] == tx.Failed(reasons.KV_TIMEOUT, True)


def test_a_grant_after_the_seal_may_shorten_it() -> None:
    sender = new_sender()
    sender.on_event(0.0, tx.Sealed(1, b"tok", b"pay"))
    sender.on_event(10.0, tx.Granted(grant_of(1, deadline_left_s=5.0)))
    assert sender.on_event(15.1, tx.Tick())[-1] == tx.Failed(reasons.KV_TIMEOUT, True)


def test_two_beats_without_it_release_the_blocks() -> None:
    sender = new_sender()
    run_sender(sender, start(1))
    assert sender.on_event(1.0, tx.BeatGot(True)) == [tx.RenewLease()]
    assert sender.on_event(1.0, tx.BeatGot(False)) == []
    assert sender.on_event(1.0, tx.BeatGot(True)) == [tx.RenewLease()]
    assert sender.on_event(1.0, tx.BeatGot(False)) == []
    assert sender.on_event(1.0, tx.BeatGot(False)) == [tx.Failed(reasons.KV_PEER_LOST, True)]
