"""Faults on KV frames, over the real sender and receiver: each is noticed by the guard that is there for it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest

from tandem.chaos.faults.frame_faults import (
    DropFrame,
    DuplicateFrame,
    FlipInFrame,
    FrameFault,
    HoldFrame,
    Kinds,
    RecordFrames,
    replay,
)
from tandem.chaos.faults.frame_splitter import DATA, FramePart
from tandem.chaos.faults.proxy import ProxyThread, TcpProxy
from tandem.core import reasons
from tandem.core.blocks import AttemptKey
from tandem.core.ids import RequestId
from tandem.kvtransfer import KvGrant
from tandem.kvtransfer.codec import FrameType
from tandem.kvtransfer.counters import Counters
from tandem.kvtransfer.grant import KvEndpoint
from tests.fakes.kv_pair import KvPair, eventually, kv_pair

NUM_BLOCKS = 12
KEY = AttemptKey(RequestId("a" * 32), 0)


def key_of(number: int) -> AttemptKey:
    return AttemptKey(RequestId(f"{number:032x}"), 0)


@dataclass
class ProxiedPair:
    """A sender whose way to the receiver leads through a proxy."""

    pair: KvPair
    proxy: TcpProxy
    thread: ProxyThread

    def grant(self, key: AttemptKey, num_blocks: int = NUM_BLOCKS) -> KvGrant:
        grant = self.pair.expect(key, num_blocks)
        return replace(grant, endpoints=(KvEndpoint(transport="tcp", address=self.proxy.address, host_id=""),))

    def begin(self, key: AttemptKey) -> KvGrant:
        """Grant, offer everything, seal."""
        grant = self.grant(key)
        self.pair.sender.grant(grant)
        self.pair.offer_all(key)
        self.pair.seal(key)
        return grant

    def counters(self) -> Counters:
        return self.pair.receiver.snapshot()


@contextmanager
def proxied() -> Iterator[ProxiedPair]:
    with kv_pair(transports=["tcp"]) as pair, ProxyThread() as thread:
        proxy = TcpProxy(thread, target=pair.receiver.endpoints[0].address, as_frames=True)
        yield ProxiedPair(pair, proxy, thread)
        proxy.close()


def hand_over(world: ProxiedPair, key: AttemptKey = KEY) -> None:
    """One hand-over, to its good end."""
    data = world.pair.fill(key, NUM_BLOCKS)
    grant = world.begin(key)
    world.pair.sent.wait(lambda: key in world.pair.sent.committed)
    assert world.pair.target_bytes(grant) == data


def fail_over(world: ProxiedPair, key: AttemptKey = KEY) -> str:
    """One hand-over that must fail at the receiver; return why."""
    world.pair.fill(key, NUM_BLOCKS)
    world.begin(key)
    world.pair.received.wait(lambda: key in world.pair.received.failed)
    world.pair.sent.wait(lambda: key in world.pair.sent.failed)
    assert key not in world.pair.received.ready
    return world.pair.received.failed[key][0]


def test_without_a_fault_the_proxy_is_not_noticed() -> None:
    with proxied() as world:
        hand_over(world)
        assert world.proxy.num_accepted == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: FlipInFrame(DATA, FramePart.PAYLOAD, nth=NUM_BLOCKS),
        lambda: DuplicateFrame(DATA, nth=NUM_BLOCKS),
        lambda: DropFrame(FrameType.ABORT),
        lambda: HoldFrame(DATA, nth=NUM_BLOCKS),
    ],
)
def test_a_fault_at_a_frame_that_never_comes_did_not_take_effect(make: Callable[[], FrameFault]) -> None:
    with proxied() as world:
        fault = make()
        world.proxy.add(fault)
        hand_over(world)
        assert not fault.verify().took_effect


@pytest.mark.parametrize(
    ("kind", "part", "offset", "reason", "counter"),
    [
        (DATA, FramePart.HEADER, 50, reasons.KV_PEER_LOST, "bad_frames"),
        (DATA, FramePart.PAYLOAD, 1000, reasons.KV_INTEGRITY, "digest_mismatch"),
        (DATA, FramePart.TRAILER, 0, reasons.KV_INTEGRITY, "digest_mismatch"),
        (FrameType.SEAL, FramePart.HEADER, 20, reasons.KV_PEER_LOST, "bad_frames"),
        (FrameType.SEAL, FramePart.PAYLOAD, 0, reasons.KV_PEER_LOST, "bad_frames"),
        (FrameType.SEAL, FramePart.TRAILER, 31, reasons.KV_INTEGRITY, "digest_mismatch"),
    ],
)
def test_a_flipped_bit_is_found_wherever_it_is(
    kind: Kinds, part: FramePart, offset: int, reason: str, counter: str
) -> None:
    with proxied() as world:
        fault = FlipInFrame(kind, part, offset=offset, nth=0 if kind is FrameType.SEAL else 1)
        world.proxy.add(fault)
        assert fail_over(world) == reason
        assert fault.verify().took_effect
        assert getattr(world.counters(), counter) == 1
        hand_over(world, key_of(2))


def test_a_duplicate_is_counted_and_does_nothing() -> None:
    with proxied() as world:
        faults = [DuplicateFrame(DATA, nth=1), DuplicateFrame(FrameType.SEAL)]
        for fault in faults:
            world.proxy.add(fault)
        hand_over(world)
        assert all(fault.verify().took_effect for fault in faults)
        assert world.counters().duplicate_chunk >= 1


def test_a_chunk_overtaken_by_the_seal_is_waited_for() -> None:
    with proxied() as world:
        fault = HoldFrame(DATA, nth=1, overtaken_by=FrameType.SEAL)
        world.proxy.add(fault)
        hand_over(world)
        assert fault.verify().took_effect


def test_a_chunk_let_go_after_its_blocks_have_a_new_owner_is_refused() -> None:
    with proxied() as world:
        fault = HoldFrame(DATA, nth=1)
        world.proxy.add(fault)
        world.pair.fill(KEY, NUM_BLOCKS)
        world.begin(KEY)
        eventually(lambda: fault.num_held == 1)
        world.pair.receiver.abort(KEY, "CLIENT_CANCELLED")
        world.pair.target.free(KEY)
        other = key_of(2)
        data = world.pair.fill(other, NUM_BLOCKS, seed=5)
        grant = world.begin(other)
        world.pair.received.wait(lambda: other in world.pair.received.ready)
        assert fault.release(world.thread) == 1
        eventually(lambda: world.counters().stale_generation >= 1)
        assert world.pair.target_bytes(grant) == data
        assert fault.verify().took_effect


def test_a_lost_commit_is_said_again() -> None:
    with proxied() as world:
        fault = DropFrame(FrameType.COMMIT)
        world.proxy.add(fault)
        hand_over(world)
        assert fault.verify().took_effect


async def test_a_recorded_conversation_can_be_said_again_and_is_refused() -> None:
    with proxied() as world:
        fault = RecordFrames()
        world.proxy.add(fault)
        hand_over(world)
        assert fault.verify().took_effect
        before = world.counters()
        await replay(fault.frames, world.pair.receiver.endpoints[0].address)
        after = world.counters()
        refused = after.unknown_transfer + after.stale_generation - before.unknown_transfer - before.stale_generation
        assert refused > 0
        assert after.num_chunks == before.num_chunks
