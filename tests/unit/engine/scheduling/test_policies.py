"""The pure policies: order, batching, admission, chunks."""

import math
import random
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.core.types import PriorityClass
from tandem.engine.config import Batching, EngineConfig
from tandem.engine.scheduling.admission import BlockDemand, may_admit
from tandem.engine.scheduling.batching import (
    BatchView,
    ContinuousBatching,
    DynamicBatching,
    StaticBatching,
    batching_policy,
)
from tandem.engine.scheduling.chunks import plan_chunks
from tandem.engine.scheduling.order import urgency

# --- order ---


def test_class_comes_before_arrival_and_arrival_before_deadline() -> None:
    def of(priority: PriorityClass, tick: int, deadline_s: float | None, serial: int) -> object:
        return urgency(priority, tick=tick, deadline_s=deadline_s, serial=serial)

    expected = [
        of(PriorityClass.INTERACTIVE, 9, None, 8),
        of(PriorityClass.STANDARD, 1, None, 7),
        of(PriorityClass.STANDARD, 2, 1.0, 6),
        of(PriorityClass.STANDARD, 2, 5.0, 5),
        of(PriorityClass.STANDARD, 2, None, 2),
        of(PriorityClass.STANDARD, 2, None, 4),
        of(PriorityClass.BATCH, 0, 0.1, 3),
    ]
    shuffled = random.Random(0).sample(expected, len(expected))
    assert sorted(shuffled) == expected  # type: ignore[type-var]


# --- batching ---


def view(running: int = 0, waiting: int = 0, oldest_wait_s: float = 0.0, reserved: int = 0) -> BatchView:
    return BatchView(num_running=running, num_reserved=reserved, num_waiting=waiting, oldest_wait_s=oldest_wait_s)


@pytest.mark.parametrize(("running", "reserved", "quota"), [(0, 0, 8), (3, 0, 5), (3, 2, 3), (8, 0, 0), (9, 0, 0)])
def test_continuous_fills_free_places(running: int, reserved: int, quota: int) -> None:
    policy = ContinuousBatching(max_sequences=8)
    seen = view(running, 4, reserved=reserved)
    assert policy.quota(seen) == quota
    assert policy.ready_in_s(seen) == (0.0 if quota else None)


def test_dynamic_takes_what_waits_once_the_batch_is_empty() -> None:
    policy = DynamicBatching(batch_size=4)
    assert policy.quota(view(1, 9)) == 0
    assert policy.ready_in_s(view(1, 9)) is None
    assert policy.quota(view(0, 1)) == 4
    assert policy.ready_in_s(view(0, 1)) == 0.0


@pytest.mark.parametrize(
    ("seen", "quota", "ready_in_s"),
    [
        (view(0, 0), 0, None),
        (view(1, 9, 5.0), 0, None),
        (view(0, 3, 0.0), 0, 0.5),
        (view(0, 3, 0.25), 0, 0.25),
        (view(0, 3, 0.5), 4, 0.0),
        (view(0, 4, 0.0), 4, 0.0),
        (view(0, 9, 0.0), 4, 0.0),
    ],
)
def test_static_waits_for_a_full_batch_or_its_time(seen: BatchView, quota: int, ready_in_s: float | None) -> None:
    policy = StaticBatching(batch_size=4, timeout_s=0.5)
    assert policy.quota(seen) == quota
    assert policy.ready_in_s(seen) == ready_in_s


def test_policy_by_configuration() -> None:
    assert batching_policy(EngineConfig(max_sequences=3)) == ContinuousBatching(max_sequences=3)
    assert batching_policy(EngineConfig(batching=Batching.DYNAMIC, batch_size=5)) == DynamicBatching(batch_size=5)
    static = EngineConfig(batching=Batching.STATIC, batch_size=5, max_sequences=4, batch_timeout_s=0.2)
    assert batching_policy(static) == StaticBatching(batch_size=4, timeout_s=0.2)


# --- admission ---

BLOCKS = st.integers(0, 200)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One question to the admission policy."""

    now: int
    growth: int
    free: int
    others: int
    margin: float
    is_alone: bool = False

    @property
    def is_admitted(self) -> bool:
        """The answer."""
        return may_admit(
            BlockDemand(now_blocks=self.now, growth_blocks=self.growth),
            free_blocks=self.free,
            others_growth_blocks=self.others,
            is_alone=self.is_alone,
            margin=self.margin,
        )


CASES = st.builds(
    Case, now=BLOCKS, growth=BLOCKS, free=BLOCKS, others=BLOCKS, margin=st.floats(0.0, 1.0), is_alone=st.booleans()
)


@given(case=CASES)
def test_admission_is_monotone(case: Case) -> None:
    if not case.is_admitted:
        assert not replace(case, now=case.now + 1).is_admitted
        assert not replace(case, growth=case.growth + 1).is_admitted
        assert not replace(case, others=case.others + 1).is_admitted
        assert not replace(case, margin=1.0).is_admitted
        assert not replace(case, is_alone=False).is_admitted
        assert case.free == 0 or not replace(case, free=case.free - 1).is_admitted


@given(case=CASES)
def test_what_is_admitted_fits(case: Case) -> None:
    if case.is_admitted:
        assert case.now <= case.free
        assert case.is_alone or case.now + math.floor(case.margin * (case.growth + case.others)) <= case.free


@pytest.mark.parametrize(("margin", "enough"), [(0.0, 4), (0.3, 10), (1.0, 24)])
def test_the_margin_keeps_room_for_growth(margin: float, enough: int) -> None:
    case = Case(now=4, growth=10, free=enough, others=10, margin=margin)
    assert case.is_admitted
    assert not replace(case, free=enough - 1).is_admitted


def test_a_lone_request_needs_only_what_it_needs_now() -> None:
    case = Case(now=4, growth=100, free=4, others=0, margin=1.0, is_alone=True)
    assert case.is_admitted
    assert not replace(case, now=5).is_admitted


# --- chunks ---


@given(left=st.lists(st.integers(1, 600), max_size=10), budget=st.integers(1, 512))
def test_chunks_fill_the_budget_in_order(left: list[int], budget: int) -> None:
    chunks = plan_chunks(left, budget)
    assert sum(chunks) == min(sum(left), budget)
    assert all(0 < chunk <= want for chunk, want in zip(chunks, left, strict=False))
    # Only the last prompt that gets tokens may get less than it needs.
    assert all(chunk == want for (chunk, _), want in zip(pairwise(chunks), left, strict=False))


def test_no_prompt_no_chunk() -> None:
    assert plan_chunks([], 512) == []
