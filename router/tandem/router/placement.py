"""Where a request runs: a pair (P, D), or D alone. Pure; property-tested to be monotone in load.

Times in seconds, from the latency model of each worker, with ``n`` sequences and ``t`` prompt tokens, of which a worker
may hold ``c`` already (``new = t - c``)::

    split(P)   = queued(P) + prefill_P(new, c) + fetch(P)
    delay(P)   = w · prefill_P(new, c)                              what the work costs those who wait behind it
    local(D)   = queued(D) + prefill_D(new, c) · (1 + step_D / chunk)   D keeps stepping between the prompt's chunks
    harm(D)    = itl_weight · prefill_D(new, c) · running(D)        what its running sequences lose meanwhile
    pace(D)    = step_D with the n sequences added, the price of a crowded D
    cost(D)    = pace(D) + transfer_D(what D lacks in its KV pool) / tokens expected after it

``w = affinity + affinity_per_waiting · requests waiting per prefill worker``: work that a cache saves is worth more the
more requests wait for it to be done. Tokens in a slower tier count as held only where fetching them is predicted to be
faster than computing them.

P is the one with the lowest split(P) + delay(P) among those whose split(P) is at most ``max_affinity_s`` and
``max_affinity_share`` of the lowest above the lowest: that is what affinity may cost a request. D is the one with the
lowest cost(D). Local prefill must be better by ``min_gain_s``, its harm included: at equal times the pair wins, because
D stays free for its next tokens.

Costs within ``tie_share`` of the lowest count as equal: of the equals two are drawn, and the one with less to do wins
(the power of two choices), so that neither several routers nor a burst of unknown prompts run to the same worker.
Without a ``draw``, the name decides.

Pairs whose hand-overs fail, or whose KV layouts differ, are left out; when no pair is left, D computes the prompt.

*Late binding*: with the pair, nothing is placed before P has credit (its queued work is below ``look_ahead_s``) and D
has a slot and blocks for the prompt and the expected growth. Until then the request stays in the router's queue, where
it can still be cancelled or overtaken for nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tandem.core import reasons
from tandem.router.actions import Pair, WorkerKey
from tandem.router.placement_costs import (
    has_room,
    num_blocks_for,
    num_cached_for,
    predict_compute_s,
    predict_decode_s,
    predict_handover_s,
    predict_local_s,
    predict_local_ttft_s,
)
from tandem.router.placement_terms import (
    CachedPrefix,
    Demand,
    NoCapacity,
    Option,
    Placement,
    PlacementCause,
    PlacementMode,
    PlacementPolicy,
    Weighed,
    WorkerView,
)

__all__ = [
    "CachedPrefix",
    "Demand",
    "NoCapacity",
    "Placement",
    "PlacementCause",
    "PlacementMode",
    "PlacementPolicy",
    "WorkerView",
    "affinity_bound_s",
    "can_hand_over",
    "num_blocks_for",
    "num_cached_for",
    "place",
    "place_held",
]


_WHY_PAIR = {
    PlacementMode.AUTO: "the cheapest pair; its decode worker alone would not be faster by enough",
    PlacementMode.SPLIT: "the cheapest pair; the placement mode is split",
}


def place(
    demand: Demand,
    *,
    prefills: Sequence[WorkerView],
    decodes: Sequence[WorkerView],
    policy: PlacementPolicy,
    blocked: frozenset[Pair] = frozenset(),
) -> Placement | NoCapacity:
    """Choose where ``demand`` runs now. Only workers that take work may be handed in; no ``blocked`` pair is used."""
    if not decodes:
        return NoCapacity(reason="no decode worker is alive")
    fitting = [d for d in decodes if has_room(demand, d)]
    if not fitting:
        return _why_nothing_fits(demand, decodes)
    candidates = _preferred(fitting, demand)
    weighed = _weigh(demand, prefills=prefills, decodes=candidates, policy=policy)
    pair = _cheapest_pair(weighed, blocked)
    cause = _why_local(
        demand, local_s=weighed.locals[0].cost_s, pair=pair, prefills=prefills, decodes=candidates, policy=policy
    )
    if cause is not None:
        return _local(weighed, policy, cause)
    if pair is None:
        return _why_no_pair(prefills, decodes)
    if pair.prefill.worker.queued_prefill_s >= policy.look_ahead_s:
        return _why_no_credit(demand, pair.prefill.worker, prefills, policy)
    return Placement(
        prefill=pair.prefill.worker.key,
        decode=pair.decode.worker.key,
        reason=_WHY_PAIR[policy.mode],
        cause=PlacementCause.PAIR,
        predicted_ttft_s=pair.prefill.cost_s,
        predicted_prefill_s=predict_compute_s(demand, pair.prefill.worker),
        num_blocks=num_blocks_for(demand, pair.decode.worker.block_size),
        weighed=weighed,
    )


def place_held(
    demand: Demand,
    *,
    holder: WorkerKey,
    prefills: Sequence[WorkerView],
    decodes: Sequence[WorkerView],
    blocked: frozenset[Pair] = frozenset(),
) -> Placement | NoCapacity | None:
    """Choose who takes over the KV that ``holder`` still has; None when nobody of this fleet can take it from there."""
    fits_holder = [
        d for d in decodes if any(p.key == holder and can_hand_over(p, d, demand, blocked) for p in prefills)
    ]
    if not decodes and any(p.key == holder for p in prefills):
        return NoCapacity(reason="no decode worker is alive")
    if not fits_holder:
        return None
    fitting = [d for d in fits_holder if has_room(demand, d)]
    if not fitting:
        return NoCapacity(reason="no decode worker has room for the KV that is held for it")
    options = [Option(worker=d, cost_s=predict_decode_s(demand, d)) for d in _preferred(fitting, demand)]
    best = min(options, key=_order)
    return Placement(
        prefill=holder,
        decode=best.worker.key,
        reason="the prefill worker still holds the KV of an earlier attempt",
        cause=PlacementCause.HELD,
        predicted_ttft_s=0.0,
        predicted_prefill_s=0.0,
        num_blocks=num_blocks_for(demand, best.worker.block_size),
        weighed=Weighed(demand=demand, decodes=options),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _PairOption:
    prefill: Option
    decode: Option


def can_hand_over(prefill: WorkerView, decode: WorkerView, demand: Demand, blocked: frozenset[Pair]) -> bool:
    """Whether the two may be a pair for this request."""
    if prefill.layout_fingerprint != decode.layout_fingerprint:
        return False
    if not blocked and not demand.avoid_pairs:
        return True
    pair = Pair(prefill=prefill.key, decode=decode.key)
    return pair not in blocked and pair not in demand.avoid_pairs


def _weigh(
    demand: Demand, *, prefills: Sequence[WorkerView], decodes: Sequence[WorkerView], policy: PlacementPolicy
) -> Weighed:
    weight = policy.affinity + policy.affinity_per_waiting * demand.num_waiting / max(len(prefills), 1)
    costs_d = sorted((Option(worker=d, cost_s=predict_decode_s(demand, d)) for d in decodes), key=_order)
    local = sorted((Option(worker=d, cost_s=predict_local_s(demand, d, policy)) for d in decodes), key=_order)
    return Weighed(
        demand=demand,
        prefills=_within_bound([_prefill_option(demand, p, weight) for p in prefills], demand, policy),
        decodes=_drawn(costs_d, demand, policy),
        locals=_drawn(local, demand, policy),
    )


def _cheapest_pair(weighed: Weighed, blocked: frozenset[Pair]) -> _PairOption | None:
    """The cheapest P and the cheapest D; where those two may not be paired, the pair with the lowest sum."""
    demand, costs_d = weighed.demand, weighed.decodes
    costs_p = [option for option in weighed.prefills if demand.reserved in (None, option.worker.key)]
    liked = [option for option in costs_p if option.worker.key not in demand.avoid]
    for options in (liked, costs_p):
        if options and can_hand_over(options[0].worker, costs_d[0].worker, demand, blocked):
            return _PairOption(prefill=options[0], decode=costs_d[0])
        pairs = [
            _PairOption(prefill=p, decode=d)
            for p in options
            for d in costs_d
            if can_hand_over(p.worker, d.worker, demand, blocked)
        ]
        if pairs:
            return min(pairs, key=lambda pair: (_order(pair.prefill)[0] + pair.decode.cost_s, _order(pair.prefill)))
    return None


def _why_no_pair(prefills: Sequence[WorkerView], decodes: Sequence[WorkerView]) -> NoCapacity:
    if not prefills:
        return NoCapacity(reason="no prefill worker is alive, and the placement mode is split")
    if _have_equal_layouts(prefills, decodes):
        return NoCapacity(reason="no decode worker with a prefill worker's KV layout has room")
    return NoCapacity(
        reason="no prefill worker stores KV as a decode worker does, and the placement mode is split",
        never=reasons.KV_LAYOUT,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _WhyLocal:
    cause: PlacementCause
    reason: str


def _why_local(
    demand: Demand,
    *,
    local_s: float,
    pair: _PairOption | None,
    prefills: Sequence[WorkerView],
    decodes: Sequence[WorkerView],
    policy: PlacementPolicy,
) -> _WhyLocal | None:
    """The cause of local prefill, or None when a pair is to run it."""
    if policy.mode is PlacementMode.AGGREGATED:
        return _WhyLocal(cause=PlacementCause.MODE, reason="the cluster runs aggregated")
    if demand.only_local:
        return _WhyLocal(
            cause=PlacementCause.SEVERAL_SEQUENCES,
            reason="several sequences are continued, which only one worker can do",
        )
    if pair is None:
        return _why_no_hand_over(prefills, decodes, policy)
    if policy.mode is PlacementMode.SPLIT:
        return None
    if _is_borrowed(demand, policy):
        share = f"{policy.borrow_share:.0%} of the prompts are computed where they decode"
        return _WhyLocal(cause=PlacementCause.BORROWED, reason=f"the prefill pool is short: {share}")
    if demand.num_prompt_tokens < policy.min_split_tokens:
        return _WhyLocal(cause=PlacementCause.SHORT_PROMPT, reason="the prompt is too short to be worth a hand-over")
    handover_s = predict_handover_s(demand, pair.decode.worker)
    if local_s + policy.min_gain_s < pair.prefill.cost_s + handover_s:
        return _WhyLocal(
            cause=PlacementCause.LOCAL_IS_FASTER,
            reason=f"local prefill is predicted to take {local_s:.3f} s with the harm to running sequences, "
            f"the pair {pair.prefill.cost_s:.3f} s and {handover_s:.3f} s of hand-over",
        )
    return None


def _is_borrowed(demand: Demand, policy: PlacementPolicy) -> bool:
    """Whether the draw falls into the borrowed share; its high bits, since its low ones decide between equals."""
    return demand.draw is not None and (demand.draw & 0xFFFFFFFF) < policy.borrow_share * 2**32


def _why_no_hand_over(
    prefills: Sequence[WorkerView], decodes: Sequence[WorkerView], policy: PlacementPolicy
) -> _WhyLocal | None:
    if _have_equal_layouts(prefills, decodes):
        return _WhyLocal(cause=PlacementCause.PAIRS_FAIL, reason="the hand-overs of every pair fail at present")
    if policy.mode is PlacementMode.SPLIT:
        return None
    return _WhyLocal(
        cause=PlacementCause.NO_PREFILL_WORKER, reason="no prefill worker with the same KV layout is alive"
    )


def _why_no_credit(
    demand: Demand, best: WorkerView, prefills: Sequence[WorkerView], policy: PlacementPolicy
) -> NoCapacity:
    if all(p.queued_prefill_s >= policy.look_ahead_s for p in prefills):
        return NoCapacity(reason="every prefill worker has its look-ahead full")
    return NoCapacity(
        reason="the prefill worker that would be done first has its look-ahead full",
        waits_for=best.key,
        work_s=predict_compute_s(demand, best),
    )


def _have_equal_layouts(prefills: Sequence[WorkerView], decodes: Sequence[WorkerView]) -> bool:
    return any(p.layout_fingerprint == d.layout_fingerprint for p in prefills for d in decodes)


def _prefill_option(demand: Demand, worker: WorkerView, weight: float) -> Option:
    compute_s = predict_compute_s(demand, worker)
    return Option(worker=worker, cost_s=worker.queued_prefill_s + compute_s, delay_s=weight * compute_s)


def affinity_bound_s(options: Sequence[Option], policy: PlacementPolicy) -> float:
    """What a prefill worker may cost the request itself, if others gain by it."""
    lowest_s = min((option.cost_s for option in options), default=0.0)
    return lowest_s * (1.0 + policy.max_affinity_share) + policy.max_affinity_s


def _within_bound(options: Sequence[Option], demand: Demand, policy: PlacementPolicy) -> list[Option]:
    """Best first; those that would cost the request too much come last, by its own time alone."""
    bound_s = affinity_bound_s(options, policy)
    near = sorted((option for option in options if option.cost_s <= bound_s), key=_order)
    far = [replace(option, delay_s=0.0) for option in options if option.cost_s > bound_s]
    return [*_drawn(near, demand, policy), *sorted(far, key=_order)]


def _drawn(options: list[Option], demand: Demand, policy: PlacementPolicy) -> list[Option]:
    """Best first, as before, but of several equally good ones the less busy of two drawn ones is the first."""
    if demand.draw is None or policy.tie_share is None or len(options) < 2:
        return options
    most_s = _order(options[0])[0] * (1.0 + policy.tie_share)
    ties = [option for option in options if _order(option)[0] <= most_s]
    if len(ties) < 2:
        return options
    first = ties[demand.draw % len(ties)]
    others = [option for option in ties if option is not first]
    second = others[demand.draw // len(ties) % len(others)]
    chosen = min(first, second, key=_busy)
    return [chosen, *(option for option in options if option is not chosen)]


def _busy(option: Option) -> tuple[float, int, int]:
    worker = option.worker
    return worker.queued_prefill_s, worker.num_sequences, -worker.free_blocks


def _why_nothing_fits(demand: Demand, decodes: Sequence[WorkerView]) -> NoCapacity:
    for worker in decodes:
        if demand.num_sequences <= worker.max_sequences and (
            num_blocks_for(demand, worker.block_size) <= worker.total_blocks
        ):
            return NoCapacity(reason="no decode worker has a free slot and enough blocks", lacks_room=True)
    return NoCapacity(
        reason="the request needs more KV blocks or slots than any decode worker has", never=reasons.TOO_LARGE
    )


def _preferred(workers: Sequence[WorkerView], demand: Demand) -> Sequence[WorkerView]:
    """Those not to be avoided; all of them when nobody else is left."""
    return [w for w in workers if w.key not in demand.avoid] or workers


def _order(option: Option) -> tuple[float, str]:
    return option.cost_s + option.delay_s, option.worker.key.worker_id


def _local(weighed: Weighed, policy: PlacementPolicy, why: _WhyLocal) -> Placement:
    demand, worker = weighed.demand, weighed.locals[0].worker
    return Placement(
        prefill=None,
        decode=worker.key,
        reason=why.reason,
        cause=why.cause,
        predicted_ttft_s=predict_local_ttft_s(demand, worker, policy),
        predicted_prefill_s=predict_compute_s(demand, worker),
        num_blocks=num_blocks_for(demand, worker.block_size),
        weighed=weighed,
    )
