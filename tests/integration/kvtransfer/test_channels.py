"""The two transports' channels alone: digests, slots in turn, bounds, and payloads thrown away half way."""

import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_128_digest

from tandem.kvtransfer.codec import HEADER_BYTES, decode, decode_header
from tandem.kvtransfer.errors import LinkLost, ProtocolViolation
from tandem.kvtransfer.frames import Chunk
from tandem.kvtransfer.recent import RecentSet
from tandem.kvtransfer.transport.ring import NUM_SLOTS, SLOT_BYTES, StagingRing, create_ring_fd
from tandem.kvtransfer.transport.shm import ShmReceivingChannel, ShmSendingChannel
from tandem.kvtransfer.transport.tcp import TcpReceivingChannel, TcpSendingChannel
from tandem.kvtransfer.wire import PlainWire, read_exactly

SEED = 0x1234_5678_9ABC_DEF0
PAYLOAD = bytes(index % 253 for index in range(700_001))


def never() -> bool:
    return False


def head_of(length: int) -> Chunk:
    return Chunk(b"t" * 16, 5, 1, 2, 3, 0, length, b"", None)


def read_chunk(wire: PlainWire) -> Chunk:
    frame = decode(decode_header(read_exactly(wire, HEADER_BYTES)))
    assert isinstance(frame, Chunk)
    return frame


class Ends:
    """Both ends of one connection, and of one ring."""

    def __init__(self) -> None:
        one, two = socket.socketpair()
        self.near, self.far = PlainWire(one), PlainWire(two)
        fd = create_ring_fd()
        self.near_ring = StagingRing.attach(os.dup(fd), num_slots=NUM_SLOTS, slot_bytes=SLOT_BYTES)
        self.far_ring = StagingRing(fd, num_slots=NUM_SLOTS, slot_bytes=SLOT_BYTES)

    def close(self) -> None:
        self.near.close()
        self.far.close()
        self.near_ring.close()
        self.far_ring.close()


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.close()


@pytest.mark.parametrize("length", [1, 1000, 192 * 1024, 192 * 1024 + 1, len(PAYLOAD)])
def test_shm_moves_bytes_and_both_sides_agree_on_the_digest(ends: Ends, length: int) -> None:
    sender, receiver = ShmSendingChannel(ends.near, ends.near_ring), ShmReceivingChannel(ends.far, ends.far_ring)
    target = bytearray(length)
    sent = sender.send_chunk(head_of(length), memoryview(PAYLOAD)[:length], seed=SEED)
    chunk = read_chunk(ends.far)
    got = receiver.receive(chunk, memoryview(target), seed=SEED, stopped=never)
    assert got == sent == chunk.digest == xxh3_128_digest(PAYLOAD[:length], SEED)
    assert target == PAYLOAD[:length]


def test_tcp_moves_bytes_and_both_sides_agree_on_the_digest(ends: Ends) -> None:
    sender, receiver = TcpSendingChannel(ends.near), TcpReceivingChannel(ends.far)
    target = bytearray(50_000)
    sent = sender.send_chunk(head_of(50_000), memoryview(PAYLOAD)[:50_000], seed=SEED)
    chunk = read_chunk(ends.far)
    assert receiver.receive(chunk, memoryview(target), seed=SEED, stopped=never) == sent == chunk.digest
    assert target == PAYLOAD[:50_000]


def test_tcp_discard_finds_the_next_frame(ends: Ends) -> None:
    sender, receiver = TcpSendingChannel(ends.near), TcpReceivingChannel(ends.far)
    for _ in range(3):
        sender.send_chunk(head_of(30_000), memoryview(PAYLOAD)[:30_000], seed=SEED)
    first = read_chunk(ends.far)
    assert receiver.receive(first, memoryview(bytearray(30_000)), seed=SEED, stopped=lambda: True) is None
    receiver.discard(first)
    receiver.discard(read_chunk(ends.far))
    assert receiver.receive(read_chunk(ends.far), memoryview(bytearray(30_000)), seed=SEED, stopped=never)


def test_slot_changed_after_the_header_is_found(ends: Ends) -> None:
    """The digest is over what lies in the block, so a sender gains nothing by writing on."""
    sender, receiver = ShmSendingChannel(ends.near, ends.near_ring), ShmReceivingChannel(ends.far, ends.far_ring)
    sender.send_chunk(head_of(1000), memoryview(PAYLOAD)[:1000], seed=SEED)
    with ends.near_ring.slot(0, 1000) as slot:
        slot[500] ^= 1
    chunk = read_chunk(ends.far)
    assert receiver.receive(chunk, memoryview(bytearray(1000)), seed=SEED, stopped=never) != chunk.digest


def test_slots_are_bounded_and_come_back_in_turn(ends: Ends) -> None:
    sender, receiver = ShmSendingChannel(ends.near, ends.near_ring), ShmReceivingChannel(ends.far, ends.far_ring)
    for _ in range(NUM_SLOTS):
        assert sender.can_send()
        sender.send_chunk(head_of(10), memoryview(PAYLOAD)[:10], seed=SEED)
    assert not sender.can_send()
    receiver.receive(read_chunk(ends.far), memoryview(bytearray(10)), seed=SEED, stopped=never)
    receiver.discard(read_chunk(ends.far))
    assert receiver.slots_to_return() == 2
    sender.slots_freed(2)
    assert sender.can_send()


@pytest.mark.parametrize("num_freed", [2, 2**63])
def test_more_slots_freed_than_used_is_a_lie(ends: Ends, num_freed: int) -> None:
    sender = ShmSendingChannel(ends.near, ends.near_ring)
    sender.send_chunk(head_of(10), memoryview(PAYLOAD)[:10], seed=SEED)
    with pytest.raises(ProtocolViolation, match="freed"):
        sender.slots_freed(num_freed)
    sender.slots_freed(1)
    with pytest.raises(ProtocolViolation, match="freed"):
        sender.slots_freed(0)


@pytest.mark.parametrize("slot", [1, NUM_SLOTS, 2**32 - 1, None])
def test_slot_out_of_turn_is_refused(ends: Ends, slot: int | None) -> None:
    receiver = ShmReceivingChannel(ends.far, ends.far_ring)
    chunk = Chunk(b"t" * 16, 5, 1, 2, 3, 0, 10, b"", slot)
    target = bytearray(10)
    with pytest.raises(ProtocolViolation, match="out of turn"):
        receiver.receive(chunk, memoryview(target), seed=SEED, stopped=never)
    with pytest.raises(ProtocolViolation, match="out of turn"):
        receiver.discard(chunk)
    assert target == bytes(10)


@pytest.mark.parametrize(("index", "length"), [(-1, 1), (NUM_SLOTS, 1), (0, -1), (0, SLOT_BYTES + 1)])
def test_ring_bounds(ends: Ends, index: int, length: int) -> None:
    with pytest.raises(ProtocolViolation, match="staging ring"):
        ends.far_ring.slot(index, length)


def test_ring_can_be_neither_shrunk_nor_grown() -> None:
    fd = create_ring_fd()
    for size in (0, NUM_SLOTS * SLOT_BYTES * 2):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, size)
    os.close(fd)


def test_reads_and_writes_end_when_the_peer_stands_still(ends: Ends) -> None:
    with pytest.raises(LinkLost, match="no bytes"):
        PlainWire(ends.near.socket, idle_s=0.4).read_into(memoryview(bytearray(10)))
    with pytest.raises(LinkLost, match="takes no bytes"):
        PlainWire(ends.near.socket, idle_s=0.4).send(b"head", memoryview(bytes(64 << 20)))


@given(st.lists(st.integers(0, 20)), st.integers(1, 8))
def test_recent_set_keeps_the_latest(values: list[int], capacity: int) -> None:
    recent: RecentSet[int] = RecentSet(capacity)
    order: list[int] = []
    for value in values:
        recent.add(value)
        order = [other for other in order if other != value] + [value]
    assert {value for value in range(21) if value in recent} == set(order[-capacity:])
