"""Between which prefill workers the routers decide together: only those that this router would take itself."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tandem.core.types import Role
from tandem.router.actions import Pair, WorkerKey
from tandem.router.candidates import Candidate, candidates_of
from tandem.router.placement import Demand, Placement, PlacementMode, PlacementPolicy, WorkerView, place
from tests.unit.router.builders import P2, D, P, key, make_view

POLICY = PlacementPolicy(mode=PlacementMode.SPLIT, tie_share=None)
DECODE = make_view("decode-0", Role.DECODE)


def prefill(number: int, *, queued_s: float = 0.0, layout: str = "l") -> WorkerView:
    return make_view(f"prefill-{number}", Role.PREFILL, queued_prefill_s=queued_s, layout=layout)


def candidates(
    *prefills: WorkerView,
    avoid: frozenset[WorkerKey] = frozenset(),
    avoid_pairs: frozenset[Pair] = frozenset(),
    blocked: frozenset[Pair] = frozenset(),
    asked_s: dict[WorkerKey, float] | None = None,
    policy: PlacementPolicy = POLICY,
    most: int = 8,
) -> list[Candidate]:
    demand = Demand(num_prompt_tokens=100, num_sequences=1, growth_tokens=8, avoid=avoid, avoid_pairs=avoid_pairs)
    placement = place(demand, prefills=prefills, decodes=[DECODE], policy=policy, blocked=blocked)
    assert isinstance(placement, Placement)
    assert placement.prefill is not None
    assert placement.weighed is not None
    found = candidates_of(
        placement.weighed,
        chosen=placement.prefill,
        policy=policy,
        blocked=blocked,
        asked_s=asked_s or {},
        most=most,
    )
    assert found[0].worker == placement.prefill, "of equals the shared sums take the first"
    return found


def workers(found: list[Candidate]) -> list[str]:
    return [one.worker.worker_id for one in found]


def test_equals_all_take_part() -> None:
    assert workers(candidates(prefill(0), prefill(1), prefill(2))) == ["prefill-0", "prefill-1", "prefill-2"]


def test_no_more_than_so_many() -> None:
    assert len(candidates(*(prefill(n) for n in range(20)), most=8)) == 8


def test_who_has_no_credit_takes_no_part() -> None:
    assert workers(candidates(prefill(0), prefill(1, queued_s=0.25), prefill(2, queued_s=0.24))) == [
        "prefill-0",
        "prefill-2",
    ]


def test_who_would_cost_the_request_too_much_takes_no_part() -> None:
    strict = replace(POLICY, max_affinity_s=0.01, max_affinity_share=0.0)
    assert workers(candidates(prefill(0), prefill(1, queued_s=0.009), prefill(2, queued_s=0.02), policy=strict)) == [
        "prefill-0",
        "prefill-1",
    ]


def test_who_is_avoided_blocked_or_of_another_layout_takes_no_part() -> None:
    three = (prefill(0), prefill(1), prefill(2, layout="other"))
    assert workers(candidates(*three)) == ["prefill-0", "prefill-1"]
    assert workers(candidates(*three, avoid=frozenset({P2}))) == ["prefill-0"]
    assert workers(candidates(*three, avoid_pairs=frozenset({Pair(prefill=P2, decode=D)}))) == ["prefill-0"]
    assert workers(candidates(*three, blocked=frozenset({Pair(prefill=P, decode=D)}))) == ["prefill-1"]


def test_the_parts_of_the_cost_are_those_that_placement_compared() -> None:
    (first, second) = candidates(prefill(0), prefill(1, queued_s=0.05))
    compute_s = prefill(0).model.prefill_s(num_new_tokens=100)
    for one, queued_s in ((first, 0.0), (second, 0.05)):
        assert abs(one.base_s - 2 * compute_s) < 1e-9, "itself, and as much for those behind it"
        assert abs(one.queued_s - queued_s) < 1e-9
        assert abs(one.load_s - compute_s) < 1e-9


def test_work_that_is_only_asked_for_is_no_queue() -> None:
    seen = candidates(prefill(0, queued_s=0.03), prefill(1, queued_s=0.05), asked_s={P2: 0.04, P: 0.2})
    assert [(one.worker, round(one.queued_s, 9)) for one in seen] == [(P, 0.0), (P2, 0.01)]


@given(queues=st.lists(st.floats(0.0, 0.6), min_size=1, max_size=12), most=st.integers(1, 8), draw=st.integers(0, 99))
def test_whoever_is_among_them_has_credit_and_is_near(queues: list[float], most: int, draw: int) -> None:
    queues[0] = 0.0  # somebody can take it
    policy = replace(POLICY, tie_share=0.02)
    found = candidates(*(prefill(n, queued_s=s) for n, s in enumerate(queues)), policy=policy, most=most)
    assert len({one.worker for one in found}) == len(found) <= most
    own_s = prefill(0).model.prefill_s(num_new_tokens=100)
    for one in found:
        queued_s = queues[int(one.worker.worker_id.removeprefix("prefill-"))]
        assert queued_s < policy.look_ahead_s
        assert queued_s <= own_s * policy.max_affinity_share + policy.max_affinity_s + 1e-9


def test_epochs_go_along() -> None:
    reborn = replace(prefill(0), key=key("prefill-0", 7))
    assert [one.worker.epoch for one in candidates(reborn, prefill(1))] == [7, 1]
