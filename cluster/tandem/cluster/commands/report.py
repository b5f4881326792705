"""How results are shown: as a JSON object, or as lines for people. Pure."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tandem.client import Generation, PhaseTimings, ServedBy, Usage

_PHASES = (
    ("tokenize", "tokenize_ms"),
    ("queue", "queue_ms"),
    ("prefill", "prefill_ms"),
    ("TTFT", "ttft_ms"),
    ("hand-over", "handover_ms"),
    ("first decode", "first_decode_ms"),
    ("total", "total_ms"),
)


def generation_json(generation: Generation) -> dict[str, Any]:
    """Return an answer as plain values."""
    shown = asdict(generation)
    shown["usage"]["uncached_tokens"] = generation.usage.uncached_tokens
    return shown


def timing_lines(timings: PhaseTimings) -> list[str]:
    """Return one line per phase; a phase that did not happen is a dash."""
    rows = [(label, getattr(timings, field)) for label, field in _PHASES]
    width = max(len(label) for label, _ in rows)
    return [f"{label:<{width}}  {'       -' if value is None else f'{value:8.1f} ms'}" for label, value in rows]


def served_line(workers: ServedBy, *, transport: str) -> str:
    """Say which workers served a request."""
    if workers.prefill_worker == workers.decode_worker:
        return f"prompt and answer on {workers.decode_worker}, no hand-over"
    return f"prompt on {workers.prefill_worker} → {transport} → answer on {workers.decode_worker}"


def usage_line(usage: Usage, timings: PhaseTimings) -> str:
    """Say how many tokens there were, and how fast the answer came."""
    cached = f" ({usage.cached_tokens} cached)" if usage.cached_tokens else ""
    text = f"{usage.prompt_tokens} prompt tokens{cached}, {usage.output_tokens} output tokens"
    if timings.total_ms is not None and timings.ttft_ms is not None and usage.output_tokens > 1:
        rest_s = (timings.total_ms - timings.ttft_ms) / 1e3
        if rest_s > 0:
            text += f", {(usage.output_tokens - 1) / rest_s:.1f} tokens/s after the first"
    return text


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return aligned columns."""
    widths = [max(len(row[at]) for row in (head, *rows)) for at in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    ]
