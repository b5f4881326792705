"""Where a request runs: a pair (P, D), or D alone. Pure; property-tested to be monotone in load.

Times in seconds, from the latency model of each worker, with ``n`` sequences and ``t`` prompt tokens, of which a worker
may hold ``c`` already (``new = t - c``)::

    split(P)   = queued(P) + prefill_P(new, c) + fetch(P)
    delay(P)   = w · prefill_P(new, c)                              what the work costs those who wait behind it
    local(D)   = queued(D) + prefill_D(new, c) · (1 + step_D / chunk)   D keeps stepping between the prompt's chunks
    harm(D)    = itl_weight · prefill_D(new, c) · running(D)        what its running sequences lose meanwhile
    pace(D)    = step_D with the n sequences added, the price of a crowded D

``w = affinity + affinity_per_waiting · requests waiting per prefill worker``: work that a cache saves is worth more the
more requests wait for it to be done. Tokens in a slower tier count as held only where fetching them is predicted to be
faster than computing them.

P is the one with the lowest split(P) + delay(P) among those whose split(P) is at most ``max_affinity_s`` and
``max_affinity_share`` of the lowest above the lowest: that is what affinity may cost a request. D is the one with the
lowest pace(D); ties go to the name. Local prefill must be better by ``min_gain_s``, its harm included: at equal times
the pair wins, because D stays free for its next tokens.

Pairs whose hand-overs fail, or whose KV layouts differ, are left out; when no pair is left, D computes the prompt.

*Late binding*: with the pair, nothing is placed before P has credit (its queued work is below ``look_ahead_s``) and D
has a slot and blocks for the prompt and the expected growth. Until then the request stays in the router's queue, where
it can still be cancelled or overtaken for nothing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from tandem.core import reasons
from tandem.core.latency import LatencyModel
from tandem.core.types import Role
from tandem.router.actions import Pair, WorkerKey


class PlacementMode(StrEnum):
    """Which of the two ways placement may take."""

    AUTO = "auto"
    SPLIT = "split"  # always a pair: for comparisons
    AGGREGATED = "aggregated"  # always local: the baseline without a prefill pool


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementPolicy:
    """Knobs of the choice."""

    mode: PlacementMode = PlacementMode.AUTO
    look_ahead_s: float = 0.25
    min_gain_s: float = 0.005
    itl_weight: float = 0.25
    prefill_chunk_s: float = 0.05
    min_split_tokens: int = 0
    affinity: float = 1.0
    affinity_per_waiting: float = 3.0
    max_affinity_s: float = 0.25
    max_affinity_share: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """One worker that takes work, as placement sees it."""

    key: WorkerKey
    role: Role
    model: LatencyModel
    block_size: int
    total_blocks: int
    free_blocks: int
    max_sequences: int
    num_sequences: int
    context_tokens: int
    queued_prefill_s: float
    kv_bytes_per_token: float = 0.0  # as seen in hand-overs; 0 until the first
    layout_fingerprint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedPrefix:
    """Leading prompt tokens that a worker need not compute, and how long it takes to bring them to its device."""

    num_tokens: int
    fetch_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a request needs. ``growth_tokens`` is the expected output per sequence."""

    num_prompt_tokens: int  # with the tokens already emitted, when it is continued
    num_sequences: int
    growth_tokens: int
    avoid: frozenset[WorkerKey] = field(default_factory=frozenset)
    avoid_pairs: frozenset[Pair] = field(default_factory=frozenset)
    only_local: bool = False
    cached: Mapping[WorkerKey, CachedPrefix] = field(default_factory=dict)
    num_waiting: int = 0  # other requests in the router's queue


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """The choice, and why. ``prefill`` is None when D computes the prompt itself."""

    prefill: WorkerKey | None
    decode: WorkerKey
    reason: str
    predicted_ttft_s: float
    predicted_prefill_s: float
    num_blocks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NoCapacity:
    """Nothing can take the request now. ``never`` says why no worker of this fleet could, however idle."""

    reason: str
    never: str = ""  # from ``tandem.core.reasons``


@dataclass(frozen=True, slots=True, kw_only=True)
class _Option:
    worker: WorkerView
    cost_s: float
    delay_s: float = 0.0  # what others lose; counts in the choice, not in the prediction


def num_blocks_for(demand: Demand, block_size: int) -> int:
    """Blocks of prompt and expected growth; further sequences share the prompt's full blocks."""
    tokens = demand.num_prompt_tokens + demand.growth_tokens
    shared = demand.num_prompt_tokens // block_size
    first = math.ceil(tokens / block_size)
    return first + (demand.num_sequences - 1) * (first - shared)


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
    fitting = [d for d in decodes if _fits(demand, d)]
    if not fitting:
        return _why_nothing_fits(demand, decodes)
    candidates = _preferred(fitting, demand)
    best_local = _cheapest([_Option(worker=d, cost_s=_local_s(demand, d, policy)) for d in candidates])
    pair = _cheapest_pair(demand, prefills=prefills, decodes=candidates, blocked=blocked, policy=policy)
    cause = _why_local(
        demand, local_s=best_local.cost_s, pair=pair, prefills=prefills, decodes=candidates, policy=policy
    )
    if cause is not None:
        return _local(demand, best_local, policy, cause)
    if pair is None:
        return _why_no_pair(prefills, decodes)
    if pair.prefill.worker.queued_prefill_s >= policy.look_ahead_s:
        return NoCapacity(reason="every prefill worker has its look-ahead full")
    return Placement(
        prefill=pair.prefill.worker.key,
        decode=pair.decode.worker.key,
        reason=f"lowest predicted finish: prefill {pair.prefill.cost_s:.3f} s, step {pair.decode.cost_s * 1e3:.1f} ms",
        predicted_ttft_s=pair.prefill.cost_s,
        predicted_prefill_s=_compute_s(demand, pair.prefill.worker),
        num_blocks=num_blocks_for(demand, pair.decode.worker.block_size),
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
        d for d in decodes if any(p.key == holder and _can_hand_over(p, d, demand, blocked) for p in prefills)
    ]
    if not decodes and any(p.key == holder for p in prefills):
        return NoCapacity(reason="no decode worker is alive")
    if not fits_holder:
        return None
    fitting = [d for d in fits_holder if _fits(demand, d)]
    if not fitting:
        return NoCapacity(reason="no decode worker has room for the KV that is held for it")
    best = _cheapest([_Option(worker=d, cost_s=_pace_s(demand, d)) for d in _preferred(fitting, demand)])
    return Placement(
        prefill=holder,
        decode=best.worker.key,
        reason="the prefill worker still holds the KV of an earlier attempt",
        predicted_ttft_s=0.0,
        predicted_prefill_s=0.0,
        num_blocks=num_blocks_for(demand, best.worker.block_size),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _PairOption:
    prefill: _Option
    decode: _Option


def _can_hand_over(prefill: WorkerView, decode: WorkerView, demand: Demand, blocked: frozenset[Pair]) -> bool:
    if prefill.layout_fingerprint != decode.layout_fingerprint:
        return False
    if not blocked and not demand.avoid_pairs:
        return True
    pair = Pair(prefill=prefill.key, decode=decode.key)
    return pair not in blocked and pair not in demand.avoid_pairs


def _cheapest_pair(
    demand: Demand,
    *,
    prefills: Sequence[WorkerView],
    decodes: Sequence[WorkerView],
    blocked: frozenset[Pair],
    policy: PlacementPolicy,
) -> _PairOption | None:
    """The cheapest P and the cheapest D; where those two may not be paired, the pair with the lowest sum."""
    weight = policy.affinity + policy.affinity_per_waiting * demand.num_waiting / max(len(prefills), 1)
    costs_p = _within_bound([_prefill_option(demand, p, weight) for p in prefills], policy)
    costs_d = sorted((_Option(worker=d, cost_s=_pace_s(demand, d)) for d in decodes), key=_order)
    liked = [option for option in costs_p if option.worker.key not in demand.avoid]
    for options in (liked, costs_p):
        if options and _can_hand_over(options[0].worker, costs_d[0].worker, demand, blocked):
            return _PairOption(prefill=options[0], decode=costs_d[0])
        pairs = [
            _PairOption(prefill=p, decode=d)
            for p in options
            for d in costs_d
            if _can_hand_over(p.worker, d.worker, demand, blocked)
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


def _handover_s(demand: Demand, decode: WorkerView) -> float:
    """Predicted time that the hand-over adds after the prefill: it delays the second token."""
    num_lacking = demand.num_prompt_tokens - num_cached_for(demand, decode)
    return decode.model.transfer_s(num_bytes=round(decode.kv_bytes_per_token * num_lacking))


def _why_local(
    demand: Demand,
    *,
    local_s: float,
    pair: _PairOption | None,
    prefills: Sequence[WorkerView],
    decodes: Sequence[WorkerView],
    policy: PlacementPolicy,
) -> str | None:
    """The cause of local prefill in words, or None when a pair is to run it."""
    if policy.mode is PlacementMode.AGGREGATED:
        return "the cluster runs aggregated"
    if demand.only_local:
        return "several sequences are continued, which only one worker can do"
    if pair is None:
        return _why_no_hand_over(prefills, decodes, policy)
    if policy.mode is PlacementMode.SPLIT:
        return None
    if demand.num_prompt_tokens < policy.min_split_tokens:
        return "the prompt is too short to be worth a hand-over"
    handover_s = _handover_s(demand, pair.decode.worker)
    if local_s + policy.min_gain_s < pair.prefill.cost_s + handover_s:
        return (
            f"local prefill is predicted to take {local_s:.3f} s with the harm to running sequences, "
            f"the pair {pair.prefill.cost_s:.3f} s and {handover_s:.3f} s of hand-over"
        )
    return None


def _why_no_hand_over(
    prefills: Sequence[WorkerView], decodes: Sequence[WorkerView], policy: PlacementPolicy
) -> str | None:
    if _have_equal_layouts(prefills, decodes):
        return "the hand-overs of every pair fail at present"
    if policy.mode is PlacementMode.SPLIT:
        return None
    return "no prefill worker with the same KV layout is alive"


def _have_equal_layouts(prefills: Sequence[WorkerView], decodes: Sequence[WorkerView]) -> bool:
    return any(p.layout_fingerprint == d.layout_fingerprint for p in prefills for d in decodes)


def num_cached_for(demand: Demand, worker: WorkerView) -> int:
    """Leading prompt tokens that ``worker`` would not compute: at most all but one, and only what is worth fetching."""
    held = demand.cached.get(worker.key)
    if held is None or held.num_tokens <= 0:
        return 0
    num_cached = min(held.num_tokens, demand.num_prompt_tokens - 1)
    model, num_all = worker.model, demand.num_prompt_tokens
    with_it_s = held.fetch_s + model.prefill_s(num_new_tokens=num_all - num_cached, num_cached_tokens=num_cached)
    return num_cached if with_it_s < model.prefill_s(num_new_tokens=num_all) else 0


def _compute_s(demand: Demand, worker: WorkerView) -> float:
    """Time until ``worker`` has the prompt's KV, once it begins: fetching what is cached, computing the rest."""
    num_cached = num_cached_for(demand, worker)
    compute_s = worker.model.prefill_s(
        num_new_tokens=demand.num_prompt_tokens - num_cached, num_cached_tokens=num_cached
    )
    return compute_s + (demand.cached[worker.key].fetch_s if num_cached else 0.0)


def _prefill_option(demand: Demand, worker: WorkerView, weight: float) -> _Option:
    compute_s = _compute_s(demand, worker)
    return _Option(worker=worker, cost_s=worker.queued_prefill_s + compute_s, delay_s=weight * compute_s)


def _within_bound(options: Sequence[_Option], policy: PlacementPolicy) -> list[_Option]:
    """Best first; those that would cost the request too much come last, by its own time alone."""
    lowest_s = min((option.cost_s for option in options), default=0.0)
    bound_s = lowest_s * (1.0 + policy.max_affinity_share) + policy.max_affinity_s
    near = sorted((option for option in options if option.cost_s <= bound_s), key=_order)
    far = [replace(option, delay_s=0.0) for option in options if option.cost_s > bound_s]
    return [*near, *sorted(far, key=_order)]


def _fits(demand: Demand, worker: WorkerView) -> bool:
    has_slot = worker.num_sequences + demand.num_sequences <= worker.max_sequences
    return has_slot and num_blocks_for(demand, worker.block_size) <= worker.free_blocks


def _why_nothing_fits(demand: Demand, decodes: Sequence[WorkerView]) -> NoCapacity:
    for worker in decodes:
        if demand.num_sequences <= worker.max_sequences and (
            num_blocks_for(demand, worker.block_size) <= worker.total_blocks
        ):
            return NoCapacity(reason="no decode worker has a free slot and enough blocks")
    return NoCapacity(
        reason="the request needs more KV blocks or slots than any decode worker has", never=reasons.TOO_LARGE
    )


def _preferred(workers: Sequence[WorkerView], demand: Demand) -> Sequence[WorkerView]:
    """Those not to be avoided; all of them when nobody else is left."""
    return [w for w in workers if w.key not in demand.avoid] or workers


def _cheapest(options: Sequence[_Option]) -> _Option:
    return min(options, key=_order)


def _order(option: _Option) -> tuple[float, str]:
    return option.cost_s + option.delay_s, option.worker.key.worker_id


def _pace_s(demand: Demand, worker: WorkerView) -> float:
    return worker.model.step_s(
        num_sequences=worker.num_sequences + demand.num_sequences,
        num_context_tokens=worker.context_tokens + demand.num_sequences * demand.num_prompt_tokens,
    )


def _local_ttft_s(demand: Demand, worker: WorkerView, policy: PlacementPolicy) -> float:
    compute_s = _compute_s(demand, worker)
    if worker.num_sequences:
        step_s = worker.model.step_s(num_sequences=worker.num_sequences, num_context_tokens=worker.context_tokens)
        compute_s += step_s * math.ceil(compute_s / policy.prefill_chunk_s)
    return worker.queued_prefill_s + compute_s


def _local_s(demand: Demand, worker: WorkerView, policy: PlacementPolicy) -> float:
    harm_s = policy.itl_weight * _compute_s(demand, worker) * worker.num_sequences
    return _local_ttft_s(demand, worker, policy) + harm_s


def _local(demand: Demand, option: _Option, policy: PlacementPolicy, reason: str) -> Placement:
    worker = option.worker
    return Placement(
        prefill=None,
        decode=worker.key,
        reason=reason,
        predicted_ttft_s=_local_ttft_s(demand, worker, policy),
        predicted_prefill_s=_compute_s(demand, worker),
        num_blocks=num_blocks_for(demand, worker.block_size),
    )
