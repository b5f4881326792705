"""What a broken, slow, old or lying sender can do to a receiver: nothing but end its own connection."""

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tandem.core import reasons
from tandem.core.blocks import AttemptKey
from tandem.core.ids import RequestId
from tandem.kvtransfer.codec import HEADER_BYTES, encode, encode_chunk
from tandem.kvtransfer.frames import Abort, Beat, Commit, CommitAck, Credit, HelloAck, HelloStatus, SlotsFreed
from tests.fakes.kv_pair import SMALL_LAYOUT, TOKENS, KvPair, eventually, kv_pair
from tests.fakes.kv_raw_peer import RawPeer, num_fds

KEY = AttemptKey(RequestId("a" * 32), 0)
OTHER = AttemptKey(RequestId("b" * 32), 0)
NUM_BLOCKS = 3


@pytest.fixture
def pair() -> Iterator[KvPair]:
    with kv_pair(transports=["tcp"], num_blocks=8) as made:
        yield made


@pytest.fixture
def peer(pair: KvPair) -> Iterator[RawPeer]:
    data = pair.fill(KEY, NUM_BLOCKS)
    made = RawPeer(pair.expect(KEY, NUM_BLOCKS), SMALL_LAYOUT, data)
    yield made
    made.close()


def finish(peer: RawPeer, *, first: int = 0) -> None:
    for seq in range(first, NUM_BLOCKS):
        peer.send_chunk(peer.chunk(seq), peer.payload(seq))
    peer.send(peer.seal(token_digest=TOKENS))


def test_correct_frames_are_accepted(pair: KvPair, peer: RawPeer) -> None:
    """The no-fault control of this file, with every message sent twice: nothing happens twice."""
    peer.greet()
    peer.send(peer.open())
    for seq in (0, 0, 2, 1, 2):
        peer.send_chunk(peer.chunk(seq), peer.payload(seq))
    peer.send(peer.seal(token_digest=TOKENS), peer.seal(token_digest=TOKENS))
    pair.received.wait(lambda: KEY in pair.received.ready)
    while not isinstance(frame := peer.receive(), Commit):
        pass
    assert frame.reason == ""
    ack = CommitAck(peer.tag, peer.grant.dst_epoch)
    peer.send(ack, ack)
    eventually(lambda: not pair.receiver._transfers)
    assert pair.target_bytes(peer.grant) == peer.data
    counters = pair.receiver.snapshot()
    assert (counters.num_chunks, counters.duplicate_chunk, counters.num_committed) == (3, 2, 1)
    assert (pair.target.num_writes, pair.received.num_calls) == (3, 1)


def test_commit_is_repeated_until_acknowledged(pair: KvPair, peer: RawPeer) -> None:
    """Failure mode 12: acknowledgements get lost."""
    peer.greet()
    finish(peer)
    num_commits = 0
    while num_commits < 3:
        num_commits += isinstance(peer.receive(), Commit)
    peer.send(CommitAck(peer.tag, peer.grant.dst_epoch))
    eventually(lambda: not pair.receiver._transfers)


def test_late_chunk_after_the_blocks_were_reused(pair: KvPair, peer: RawPeer) -> None:
    """Failure mode 17, like sglang #24527: hold one chunk, cancel, reuse the pool, release the chunk."""
    peer.greet()
    peer.send_chunk(peer.chunk(0), peer.payload(0))
    eventually(lambda: pair.receiver.snapshot().num_chunks == 1)
    pair.receiver.abort(KEY, "CANCELLED")
    pair.target.free(KEY)
    for ref in pair.target.allocate(OTHER, 8):
        pair.target.view(ref)[:] = b"\xee" * SMALL_LAYOUT.block_bytes
    before = bytes(pair.target.data)
    peer.send_chunk(peer.chunk(1), peer.payload(1))
    peer.send(peer.seal(token_digest=TOKENS))
    eventually(lambda: pair.receiver.snapshot().stale_generation == 1)
    assert bytes(pair.target.data) == before
    assert pair.received.ready == {}
    peer.send(Beat(1, ()))  # the connection is as good as before: late is not hostile
    time.sleep(0.05)
    assert not peer.is_closed_within(0.0)


def test_chunk_of_another_life_or_generation_is_dropped(pair: KvPair, peer: RawPeer) -> None:
    peer.greet()
    stale = peer.chunk(0)
    peer.send_chunk(replace(stale, epoch=21), peer.payload(0))
    peer.send_chunk(replace(stale, generation=stale.generation + 1), peer.payload(0))
    eventually(lambda: pair.receiver.snapshot().stale_generation == 1)
    assert pair.receiver.snapshot().stale_epoch == 1
    assert pair.target.num_writes == 0
    finish(peer)
    pair.received.wait(lambda: KEY in pair.received.ready)


def test_tag_that_nobody_granted(pair: KvPair, peer: RawPeer) -> None:
    peer.send(peer.hello(), replace(peer.open(), tag=b"?" * 16))
    peer.send_chunk(replace(peer.chunk(0), tag=b"?" * 16), peer.payload(0))
    eventually(lambda: pair.receiver.snapshot().unknown_transfer == 2)
    frames = [peer.receive(), peer.receive()]
    assert isinstance(frames[1], Abort)
    assert pair.target.num_writes == 0


def test_second_connection_cannot_join_a_transfer(pair: KvPair, peer: RawPeer) -> None:
    peer.greet()
    thief = RawPeer(peer.grant, SMALL_LAYOUT, peer.data)
    thief.greet()
    thief.send_chunk(thief.chunk(0), thief.payload(0))
    eventually(lambda: pair.receiver.snapshot().unknown_transfer == 2)
    assert pair.target.num_writes == 0
    thief.close()
    finish(peer)
    pair.received.wait(lambda: KEY in pair.received.ready)


@pytest.mark.parametrize(
    ("change", "counter"),
    [
        ({"block_id": 7}, "not_granted"),
        ({"block_id": 2**32 - 1}, "not_granted"),
        ({"seq": 3}, "out_of_bounds"),
        ({"seq": 2**32 - 1}, "out_of_bounds"),
        ({"offset": 1}, "out_of_bounds"),
        ({"offset": 2**32 - 1}, "out_of_bounds"),
        ({"length": 100}, "out_of_bounds"),
    ],
)
def test_chunks_outside_the_grant_close_the_connection(
    pair: KvPair, peer: RawPeer, change: dict[str, int], counter: str
) -> None:
    """Security finding 6: never an address, only places inside this transfer's own grant."""
    peer.greet()
    chunk = replace(peer.chunk(0), **change)  # type: ignore[arg-type]
    peer.send_chunk(chunk, bytes(chunk.length))
    pair.received.wait(lambda: KEY in pair.received.failed)
    assert getattr(pair.receiver.snapshot(), counter) == 1
    assert pair.target.num_writes == 0
    assert bytes(pair.target.data) == bytes(len(pair.target.data))
    assert peer.is_closed_within(5)


@pytest.mark.parametrize("part", ["header", "payload", "seal", "seal payload", "open"])
@pytest.mark.parametrize("position", [0.0, 0.3, 0.7, 0.999])
def test_a_flipped_byte_anywhere_is_found(pair: KvPair, peer: RawPeer, part: str, position: float) -> None:
    """Failure mode 19: whatever part of whatever frame is hit, nothing becomes ready."""
    chunk = peer.chunk(1)
    pieces = {
        "hello": encode(peer.hello()),
        "open": encode(peer.open()),
        "first": encode_chunk(peer.chunk(0), digest=peer.chunk(0).digest, slot=None) + peer.payload(0),
        "header": encode_chunk(chunk, digest=chunk.digest, slot=None),
        "payload": peer.payload(1),
        "last": encode_chunk(peer.chunk(2), digest=peer.chunk(2).digest, slot=None) + peer.payload(2),
        "seal": encode(peer.seal(token_digest=TOKENS))[:HEADER_BYTES],
        "seal payload": encode(peer.seal(token_digest=TOKENS))[HEADER_BYTES:],
    }
    broken = bytearray(pieces[part])
    broken[int(position * len(broken))] ^= 0x10
    pieces[part] = bytes(broken)
    peer.sock.sendall(b"".join(pieces.values()))
    if part == "open":
        eventually(lambda: pair.receiver.snapshot().bad_frames == 1)
        pair.receiver.abort(KEY, "X")
    else:
        pair.received.wait(lambda: KEY in pair.received.failed)
        assert pair.received.failed[KEY] in [(reasons.KV_INTEGRITY, True), (reasons.KV_PEER_LOST, True)]
    assert pair.received.ready == {}
    counters = pair.receiver.snapshot()
    assert counters.bad_frames + counters.digest_mismatch == 1


GARBAGE = [
    b"\x80\x04\x95\x1f\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93\x8c\x06touch x\x85R." + bytes(100),
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + bytes(100),
    bytes(200),
    b"\xff" * 200,
]


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("is_greeted", [False, True])
def test_garbage_closes_the_connection(pair: KvPair, peer: RawPeer, garbage: bytes, is_greeted: bool) -> None:
    """Security finding 1: a pickle on this port is bytes with a wrong magic, nothing else."""
    if is_greeted:
        peer.greet()
    peer.sock.sendall(garbage)
    assert peer.is_closed_within(5)
    eventually(lambda: pair.receiver.snapshot().bad_frames == 1)


@pytest.mark.parametrize("frame", [Credit(b"t" * 16, 22, 1), SlotsFreed(1), HelloAck(HelloStatus.WELCOME, 1, 1, 1, "")])
def test_frames_of_the_wrong_direction_close_the_connection(pair: KvPair, peer: RawPeer, frame: Credit) -> None:
    peer.greet()
    peer.send(frame)
    assert peer.is_closed_within(5)


def test_half_open_peers_are_dropped_in_seconds(pair: KvPair, peer: RawPeer) -> None:
    """Security finding 7: silence, a trickle, and a chunk that stops half way: bounded threads, bounded time."""
    before = threading.active_count()
    silent = RawPeer(peer.grant, SMALL_LAYOUT, peer.data)
    trickle = RawPeer(peer.grant, SMALL_LAYOUT, peer.data)
    hello = encode(trickle.hello())
    peer.greet()
    chunk = peer.chunk(0)
    peer.sock.sendall(encode_chunk(chunk, digest=chunk.digest, slot=None) + peer.payload(0)[:100])
    start_s = time.monotonic()
    for at in range(50):
        try:
            trickle.sock.sendall(hello[at : at + 1])
        except OSError:
            break
        time.sleep(0.15)
    assert silent.is_closed_within(8)
    assert trickle.is_closed_within(8)
    assert peer.is_closed_within(8)
    assert time.monotonic() - start_s < 14
    assert pair.received.failed[KEY][1]
    pair.target.free(KEY)
    assert pair.target.num_free() == 8  # the half-written block was let go
    eventually(lambda: threading.active_count() <= before)
    silent.close()
    trickle.close()


def test_abort_lets_a_stalled_block_go_at_once(pair: KvPair, peer: RawPeer) -> None:
    """The block being written is held only until the next slice, however slow its sender is."""
    peer.greet()
    chunk = peer.chunk(0)
    peer.sock.sendall(encode_chunk(chunk, digest=chunk.digest, slot=None) + peer.payload(0)[:100])
    eventually(lambda: pair.target.num_writes == 1)
    pair.receiver.abort(KEY, "CANCELLED")
    pair.target.free(KEY)
    eventually(lambda: pair.target.num_free() == 8, timeout_s=1.0)
    before = bytes(pair.target.data)
    peer.sock.sendall(peer.payload(0)[100:])  # drained, not written
    peer.send(Beat(1, ()))
    time.sleep(0.1)
    assert bytes(pair.target.data) == before
    assert pair.receiver.snapshot().bad_frames == 0


@pytest.mark.parametrize("after", [0, 1, 3])
def test_connection_lost_in_the_middle(pair: KvPair, peer: RawPeer, after: int) -> None:
    """Failure mode 4: P dies after k chunks; D hears of it at once and nothing becomes ready."""
    peer.greet()
    for seq in range(after):
        peer.send_chunk(peer.chunk(seq), peer.payload(seq))
    start_s = time.monotonic()
    peer.close()
    pair.received.wait(lambda: KEY in pair.received.failed)
    assert time.monotonic() - start_s < 2
    assert pair.received.failed[KEY] == (reasons.KV_PEER_LOST, True)


def test_connection_flood_is_bounded(monkeypatch: pytest.MonkeyPatch, pair: KvPair) -> None:
    monkeypatch.setattr("tandem.kvtransfer.receiver._MAX_LINKS", 4)
    host, port = pair.receiver.endpoints[0].address.rsplit(":", 1)
    fds = num_fds()
    flood = [socket.create_connection((host, int(port))) for _ in range(12)]
    eventually(lambda: pair.receiver.snapshot().refused_connections == 8)
    for sock in flood:
        sock.close()
    eventually(lambda: num_fds() <= fds)
