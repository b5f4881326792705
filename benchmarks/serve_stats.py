"""Percentiles and rates of one arm."""

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.serve_load import Sample


def percentiles_ms(values_s: Sequence[float]) -> dict[str, float]:
    """Return p50, p90 and p99 in milliseconds; nothing for no values."""
    if not values_s:
        return {}
    if len(values_s) == 1:
        return dict.fromkeys(("p50", "p90", "p99"), round(1e3 * values_s[0], 1))
    cuts = statistics.quantiles(values_s, n=100, method="inclusive")
    return {f"p{share}": round(1e3 * cuts[share - 1], 1) for share in (50, 90, 99)}


def summarise(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return the figures of one arm. Rates are over the time in which requests were sent or answered, per round."""
    good = [sample for sample in samples if not sample.error]
    busy_s = _busy_s(good)
    return {
        "requests": len(samples),
        "failures": len(samples) - len(good),
        "errors": sorted({sample.error for sample in samples if sample.error}),
        "ttft_ms": percentiles_ms([s.ttft_s for s in good if s.ttft_s is not None]),
        "tpot_ms": percentiles_ms([s.tpot_s for s in good if s.tpot_s is not None]),
        "itl_ms": percentiles_ms([gap for s in good for gap in s.gaps_s]),
        "input_tokens_per_s": round(sum(s.num_prompt_tokens for s in good) / busy_s, 1) if busy_s else 0.0,
        "output_tokens_per_s": round(sum(s.num_output_tokens for s in good) / busy_s, 1) if busy_s else 0.0,
        "requests_per_s": round(len(good) / busy_s, 3) if busy_s else 0.0,
    }


def _busy_s(samples: Sequence[Sample]) -> float:
    """Return the length of the union of the samples' lifetimes."""
    total_s, reached_s = 0.0, float("-inf")
    for sample in sorted(samples, key=lambda s: s.sent_s):
        total_s += max(0.0, sample.ended_s - max(reached_s, sample.sent_s))
        reached_s = max(reached_s, sample.ended_s)
    return total_s
