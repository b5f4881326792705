"""What a request costs on one worker: predicted seconds, and blocks. Pure; the formulas are in ``placement``."""

import math

from tandem.router.placement_terms import Demand, PlacementPolicy, WorkerView


def num_blocks_for(demand: Demand, block_size: int) -> int:
    """Blocks of prompt and expected growth; further sequences share the prompt's full blocks."""
    tokens = demand.num_prompt_tokens + demand.growth_tokens
    shared = demand.num_prompt_tokens // block_size
    first = math.ceil(tokens / block_size)
    return first + (demand.num_sequences - 1) * (first - shared)


def num_cached_for(demand: Demand, worker: WorkerView) -> int:
    """Leading prompt tokens that ``worker`` would not compute: at most all but one, and only what is worth fetching."""
    return _cheapest(demand, worker)[1]


def predict_compute_s(demand: Demand, worker: WorkerView) -> float:
    """Time until ``worker`` has the prompt's KV, once it begins: fetching what is cached, computing the rest."""
    return _cheapest(demand, worker)[0]


def _cheapest(demand: Demand, worker: WorkerView) -> tuple[float, int]:
    """Return the least time, and the tokens not computed then: all that is held, what is on the device, or none."""
    num_all = demand.num_prompt_tokens
    ways = [(worker.model.prefill_s(num_new_tokens=num_all), 0)]
    held = demand.cached.get(worker.key)
    if held is not None:
        near = ((held.num_tokens - held.num_slow_tokens, 0.0),) if held.num_slow_tokens else ()
        for num_held, fetch_s in (*near, (held.num_tokens, held.fetch_s)):
            num_cached = min(num_held, num_all - 1)
            if num_cached > 0:
                rest_s = worker.model.prefill_s(num_new_tokens=num_all - num_cached, num_cached_tokens=num_cached)
                ways.append((fetch_s + rest_s, num_cached))
    return min(ways)


def predict_handover_s(demand: Demand, decode: WorkerView) -> float:
    """Predicted time that the hand-over adds after the prefill: it delays the second token."""
    num_lacking = demand.num_prompt_tokens - _num_on_device(demand, decode)
    return decode.model.transfer_s(num_bytes=round(decode.kv_bytes_per_token * num_lacking))


def _num_on_device(demand: Demand, worker: WorkerView) -> int:
    held = demand.cached.get(worker.key)
    if held is None:
        return 0
    return max(min(held.num_tokens - held.num_slow_tokens, demand.num_prompt_tokens - 1), 0)


def predict_pace_s(demand: Demand, worker: WorkerView) -> float:
    """Time of a decode step of ``worker`` with the request's sequences added."""
    return worker.model.step_s(
        num_sequences=worker.num_sequences + demand.num_sequences,
        num_context_tokens=worker.context_tokens + demand.num_sequences * demand.num_prompt_tokens,
    )


def predict_decode_s(demand: Demand, worker: WorkerView) -> float:
    """That, with the hand-over spread over the tokens that are expected to follow it."""
    return predict_pace_s(demand, worker) + predict_handover_s(demand, worker) / max(demand.growth_tokens, 1)


def predict_local_ttft_s(demand: Demand, worker: WorkerView, policy: PlacementPolicy) -> float:
    """Time until the first token where ``worker`` computes the prompt between its steps."""
    compute_s = predict_compute_s(demand, worker)
    if worker.num_sequences:
        step_s = worker.model.step_s(num_sequences=worker.num_sequences, num_context_tokens=worker.context_tokens)
        compute_s += step_s * math.ceil(compute_s / policy.prefill_chunk_s)
    return worker.queued_prefill_s + compute_s


def predict_local_s(demand: Demand, worker: WorkerView, policy: PlacementPolicy) -> float:
    """That, and what it costs the sequences that run there."""
    harm_s = policy.itl_weight * predict_compute_s(demand, worker) * worker.num_sequences
    return predict_local_ttft_s(demand, worker, policy) + harm_s


def has_room(demand: Demand, worker: WorkerView) -> bool:
    """Whether ``worker`` has slots and blocks for the request now."""
    has_slot = worker.num_sequences + demand.num_sequences <= worker.max_sequences
    return has_slot and num_blocks_for(demand, worker.block_size) <= worker.free_blocks
