"""Between which prefill workers the routers' shared reservations may decide. Pure.

Those that this router would take itself: they can hand over to a decode worker with room, have credit, are not to be
avoided, and cost the request no more than affinity may. Best first, as this router sees them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tandem.router.actions import Pair, WorkerKey
from tandem.router.placement import affinity_bound_s, can_hand_over
from tandem.router.placement_costs import predict_compute_s
from tandem.router.placement_terms import Option, PlacementPolicy, Weighed


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A prefill worker that could take a request. Seconds, as this router predicts them."""

    worker: WorkerKey
    base_s: float  # what the request costs there, itself and others, without what is ahead of it
    queued_s: float  # known to be ahead of it, without what this router has only asked for
    load_s: float  # what it adds there


def candidates_of(
    weighed: Weighed,
    *,
    chosen: WorkerKey,
    policy: PlacementPolicy,
    blocked: frozenset[Pair],
    asked_s: Mapping[WorkerKey, float],
    most: int,
) -> list[Candidate]:
    """Return at most ``most`` of them, ``chosen`` first.

    ``asked_s`` is the work that the views count in ``queued_prefill_s`` although its reservation is still asked for:
    the shared sums will have it, at the worker where it really goes.
    """
    demand = weighed.demand
    bound_s = affinity_bound_s(weighed.prefills, policy)

    def may_take(option: Option) -> bool:
        worker = option.worker
        return worker.key == chosen or (
            option.cost_s <= bound_s
            and worker.queued_prefill_s < policy.look_ahead_s
            and worker.key not in demand.avoid
            and any(can_hand_over(worker, d.worker, demand, blocked) for d in weighed.decodes)
        )

    options = sorted(filter(may_take, weighed.prefills), key=lambda option: option.worker.key != chosen)
    return [
        Candidate(
            worker=option.worker.key,
            base_s=option.cost_s + option.delay_s - option.worker.queued_prefill_s,
            queued_s=max(option.worker.queued_prefill_s - asked_s.get(option.worker.key, 0.0), 0.0),
            load_s=predict_compute_s(demand, option.worker),
        )
        for option in options[:most]
    ]
