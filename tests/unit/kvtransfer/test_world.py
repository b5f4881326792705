"""The machines against loss, repetition, reordering, cancellation and restarts, in pools of one and two blocks.

Each guard is also taken out: the same walks must then find wrong bytes, or they would prove nothing.
"""

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.kvtransfer.chunks import ChunkPlace
from tandem.kvtransfer.frames import Chunk
from tandem.kvtransfer.machine.receiver import HandoverReceiver, ReceiverState
from tandem.kvtransfer.machine.receiver_events import Ready, ReceiverAction
from tests.fakes.kv_world import KvWorld, Violation

STEPS = 60


def walk(world: KvWorld) -> None:
    for number in range(STEPS):
        if number % 10 == 0:
            world.drive()
        world.step()
    world.settle()


@given(st.integers(0, 2**32), st.sampled_from([1, 2]))
@settings(max_examples=600, deadline=None)
def test_no_wrong_byte_is_ever_used(seed: int, pool_blocks: int) -> None:
    walk(KvWorld(random.Random(seed), pool_blocks=pool_blocks))


def test_the_walks_reach_ready() -> None:
    """Not vacuous: many hand-overs end well, under the same adversary."""
    num_ready = 0
    for seed in range(60):
        world = KvWorld(random.Random(seed), pool_blocks=2)
        walk(world)
        num_ready += world.num_ready
    assert num_ready >= 20


class NoGeneration(HandoverReceiver):
    """Mutant: block generations and epochs do not count."""

    def _refusal(self, chunk: Chunk, place: ChunkPlace | None) -> str | None:
        refusal = super()._refusal(chunk, place)
        return None if refusal in ("stale_generation", "stale_epoch") else refusal


class NoEpoch(HandoverReceiver):
    """Mutant: an earlier life of this worker is as good as this one."""

    def _refusal(self, chunk: Chunk, place: ChunkPlace | None) -> str | None:
        refusal = super()._refusal(chunk, place)
        if refusal != "stale_epoch":
            return refusal
        return super()._refusal(replace(chunk, epoch=self._grant.dst_epoch), place)


class NoCount(HandoverReceiver):
    """Mutant: a seal is believed without counting, as a completion flag would be."""

    def _is_complete(self) -> bool:
        return True

    def _verify(self, now_s: float) -> list[ReceiverAction]:
        if self._seal is None or self.state is not ReceiverState.RECEIVING:
            return []
        self.state = ReceiverState.VERIFIED
        return [Ready(b"", 0.0)]


def finds_violation(**mutation: Any) -> bool:
    for seed in range(4000):
        for pool_blocks in (1, 2):
            try:
                walk(KvWorld(random.Random(seed), pool_blocks=pool_blocks, **mutation))
            except Violation:
                return True
    return False


@pytest.mark.parametrize(
    "mutation",
    [
        pytest.param({"guarded_source": False}, id="no-source-check"),
        pytest.param({"receiver_class": NoCount}, id="no-count"),
        pytest.param({"receiver_class": NoGeneration, "weak_tags": True}, id="no-generation"),
        pytest.param({"receiver_class": NoEpoch, "weak_tags": True}, id="no-epoch"),
    ],
)
def test_mutants_are_found(mutation: dict[str, Any]) -> None:
    assert finds_violation(**mutation)


def test_second_layer_alone_is_enough() -> None:
    """With tags that anybody could reuse, epoch and generation still hold every wrong byte off."""
    for seed in range(150):
        walk(KvWorld(random.Random(seed), pool_blocks=1 + seed % 2, weak_tags=True))
