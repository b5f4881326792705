"""What `tandem top` shows: the cluster now, and its last minutes as small curves. Pure."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from tandem.cluster.commands.status import duration
from tandem.core.cluster import ClusterStatus, WorkerStatus
from tandem.core.types import Role
from tandem.core.watching import ClassSample, ClusterSample

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 60
_CLASSES = ("interactive", "standard", "batch")
_RECENT_S = 60.0


def top_view(status: ClusterStatus, samples: Sequence[ClusterSample]) -> RenderableType:
    """Everything, one part below the other. ``samples`` are in order; the last minute is summed up."""
    ready = "ready" if status.ready else f"not ready: {status.not_ready_reason}"
    head = (
        f"{status.model}  {ready}  ({status.router_id}, up {duration(status.uptime_s)})   "
        f"{status.num_running} running, {status.num_queued} queued"
    )
    return Group(escape(head), pool_table(status.workers), class_table(samples), curve_table(status, samples))


def pool_table(workers: Sequence[WorkerStatus]) -> Table:
    """One row per worker, below a sum for each pool."""
    shown = Table(title="workers", title_justify="left")
    for name in ("worker", "role", "state"):
        shown.add_column(name)
    for name in ("running", "waiting", "prefill tokens", "KV in use", "cached", "step"):
        shown.add_column(name, justify="right")
    for role in Role:
        pool = [worker for worker in workers if worker.info.role is role]
        for worker in pool:
            shown.add_row(escape(worker.info.worker_id), role.value, worker.state.value, *_load(worker))
        shown.add_section()
    return shown


def class_table(samples: Sequence[ClusterSample]) -> Table:
    """The classes in the last minute: what waits, what came of it, whether promises were kept."""
    recent = _recent(samples)
    shown = Table(title="classes, last minute", title_justify="left")
    shown.add_column("class")
    for name in ("queued", "ended well", "shed", "failed", "in time", "first token p50", "p95"):
        shown.add_column(name, justify="right")
    for priority in _CLASSES:
        found = [one for sample in recent for one in sample.classes if one.priority == priority]
        if found:
            shown.add_row(priority, *_class_row(found, is_last=bool(recent) and found[-1] in recent[-1].classes))
    return shown


def curve_table(status: ClusterStatus, samples: Sequence[ClusterSample]) -> Table:
    """What changes, as curves: one character a sample."""
    last = samples[-WIDTH:]
    span = duration(sum(sample.period_s for sample in last))
    shown = Table(title=f"last {span}", title_justify="left", show_header=False)
    for _ in range(3):
        shown.add_column()
    rows: list[tuple[str, list[float | None], str]] = [
        ("prefill : decode", [_ratio(sample) for sample in last], _pools(last)),
        ("queued", [float(sample.num_queued) for sample in last], str(status.num_queued)),
        ("running", [float(sample.num_running) for sample in last], str(status.num_running)),
        ("tokens/s written", [sample.output_tokens / sample.period_s for sample in last], ""),
        ("requests/s ended well", [_num_ok(sample) / sample.period_s for sample in last], ""),
        ("kept promises", [_attainment(sample.classes) for sample in last], _percent(_attained(samples))),
        ("prompts split", [_share(sample.num_split, sample.num_local) for sample in last], _split(samples)),
        ("cache hit rate", [_hits(sample) for sample in last], _percent(_hit_rate(samples))),
    ]
    for name, values, now in rows:
        said = now or (f"{values[-1]:.1f}" if values and values[-1] is not None else "-")
        shown.add_row(name, sparkline(values), said)
    return shown


def sparkline(values: Sequence[float | None]) -> str:
    """One bar per value, from zero to the largest; a dot where there was nothing to tell."""
    most = max((value for value in values if value is not None), default=0.0) or 1.0
    return "".join("·" if value is None else BARS[min(int(value / most * 8), 7)] for value in values)


def _load(worker: WorkerStatus) -> tuple[str, ...]:
    load = worker.load
    if load is None:
        return ("-",) * 6
    used = load.total_blocks - load.free_blocks
    share = f"{used / load.total_blocks:.0%}" if load.total_blocks else "-"
    counts = (load.num_running, load.num_waiting, load.waiting_prefill_tokens)
    return *(str(count) for count in counts), share, str(load.cached_blocks), f"{load.step_ms:.1f} ms"


def _class_row(found: Sequence[ClassSample], *, is_last: bool) -> tuple[str, ...]:
    num_ok, num_shed = sum(one.num_ok for one in found), sum(one.num_shed for one in found)
    p50 = _weighted([(one.ttft_p50_s, one.num_ok) for one in found])
    p95 = max((one.ttft_p95_s for one in found if one.ttft_p95_s is not None), default=None)
    return (
        str(found[-1].num_queued if is_last else 0),
        str(num_ok),
        str(num_shed),
        str(sum(one.num_other for one in found)),
        _percent(_attainment(found)),
        _seconds(p50),
        _seconds(p95),
    )


def _attainment(classes: Sequence[ClassSample]) -> float | None:
    """Share of the requests of classes with a promise that kept it; who was shed or failed did not."""
    promised = [one for one in classes if one.num_in_time is not None]
    num_all = sum(one.num_ok + one.num_shed + one.num_other for one in promised)
    return sum(one.num_in_time or 0 for one in promised) / num_all if num_all else None


def _attained(samples: Sequence[ClusterSample]) -> float | None:
    return _attainment([one for sample in _recent(samples) for one in sample.classes])


def _hit_rate(samples: Sequence[ClusterSample]) -> float | None:
    recent = _recent(samples)
    asked = sum(sample.prompt_tokens for sample in recent)
    return sum(sample.cached_tokens for sample in recent) / asked if asked else None


def _hits(sample: ClusterSample) -> float | None:
    return sample.cached_tokens / sample.prompt_tokens if sample.prompt_tokens else None


def _split(samples: Sequence[ClusterSample]) -> str:
    recent = _recent(samples)
    num_split, num_local = sum(s.num_split for s in recent), sum(s.num_local for s in recent)
    return _percent(_share(num_split, num_local))


def _share(part: int, rest: int) -> float | None:
    return part / (part + rest) if part + rest else None


def _ratio(sample: ClusterSample) -> float:
    return sample.num_prefill / sample.num_decode if sample.num_decode else 0.0


def _pools(samples: Sequence[ClusterSample]) -> str:
    return f"{samples[-1].num_prefill} : {samples[-1].num_decode}" if samples else "-"


def _num_ok(sample: ClusterSample) -> int:
    return sum(one.num_ok for one in sample.classes)


def _recent(samples: Sequence[ClusterSample]) -> list[ClusterSample]:
    return [sample for sample in samples if samples[-1].unix_s - sample.unix_s < _RECENT_S]


def _weighted(pairs: Sequence[tuple[float | None, int]]) -> float | None:
    known = [(value, weight) for value, weight in pairs if value is not None]
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if total else None


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value * 1e3:.0f} ms"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
