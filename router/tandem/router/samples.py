"""Takes a sample of this router every few seconds, and keeps those of the last minutes. Bounded; zero I/O."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tandem.core.clock import Clock
from tandem.core.cluster import PairState
from tandem.core.types import GenerationTask, Outcome, PriorityClass
from tandem.core.watching import ClassSample, ClusterSample
from tandem.router.actions import Ended, Pair, Requeue
from tandem.router.admission.terms import AdmissionCause, AdmissionDecision
from tandem.router.observer import Observer
from tandem.router.placement import NoCapacity, Placement

PERIOD_S = 2.0
NUM_KEPT = 300
_MOST_TIMES = 4096  # to first token, per class and sample
_LATER = frozenset({AdmissionCause.DISPLACED, AdmissionCause.LATE})  # shed while it waited: its end is counted


@dataclass(slots=True)
class _ClassCount:
    num_ok: int = 0
    num_shed: int = 0
    num_other: int = 0
    num_in_time: int = 0
    ttfts_s: list[float] = field(default_factory=list)


@dataclass(slots=True)
class _Count:
    num_split: int = 0
    num_local: int = 0
    num_retried: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    classes: dict[PriorityClass, _ClassCount] = field(default_factory=dict)

    def of(self, priority: PriorityClass) -> _ClassCount:
        return self.classes.setdefault(priority, _ClassCount())


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """What is counted elsewhere: as it is now, but ``output_tokens`` since the router's start."""

    num_prefill: int
    num_decode: int
    num_running: int
    queued: Mapping[PriorityClass, int]
    output_tokens: int


class Samples:
    """The dispatcher's observer in front of ``inner`` that counts, and the samples made of it."""

    def __init__(
        self, inner: Observer, *, clock: Clock, offset_s: float, promised_s: Mapping[PriorityClass, float]
    ) -> None:
        """``offset_s`` is what makes the clock's time seconds since 1970; ``promised_s`` the times to first token."""
        self._inner = inner
        self._offset_s = offset_s
        self.promised_s = promised_s
        self._count = _Count()
        self._kept: deque[ClusterSample] = deque(maxlen=NUM_KEPT)
        self._last_s = clock.now_s()
        self._last_output_tokens = 0

    def after(self, unix_s: float) -> Sequence[ClusterSample]:
        """Samples taken later than that, oldest first."""
        return [sample for sample in self._kept if sample.unix_s > unix_s]

    def is_due(self, now_s: float) -> bool:
        """Whether a sample is to be taken."""
        return now_s - self._last_s >= PERIOD_S

    def take(self, levels: Levels, now_s: float) -> None:
        """Take a sample."""
        count, self._count = self._count, _Count()
        classes = [p for p in PriorityClass if p in count.classes or levels.queued.get(p)]
        sample = ClusterSample(
            unix_s=now_s + self._offset_s,
            period_s=now_s - self._last_s,
            num_prefill=levels.num_prefill,
            num_decode=levels.num_decode,
            num_queued=sum(levels.queued.values()),
            num_running=levels.num_running,
            output_tokens=levels.output_tokens - self._last_output_tokens,
            prompt_tokens=count.prompt_tokens,
            cached_tokens=count.cached_tokens,
            num_split=count.num_split,
            num_local=count.num_local,
            num_retried=count.num_retried,
            classes=tuple(self._class(p, count.of(p), levels.queued.get(p, 0)) for p in classes),
        )
        self._kept.append(sample)
        self._last_s, self._last_output_tokens = now_s, levels.output_tokens

    def _class(self, priority: PriorityClass, count: _ClassCount, num_queued: int) -> ClassSample:
        times = sorted(count.ttfts_s)
        return ClassSample(
            priority=priority.value,
            num_queued=num_queued,
            num_ok=count.num_ok,
            num_shed=count.num_shed,
            num_other=count.num_other,
            num_in_time=count.num_in_time if priority in self.promised_s else None,
            ttft_p50_s=_quantile(times, 0.5),
            ttft_p95_s=_quantile(times, 0.95),
        )

    # --- observer ----------------------------------------------------------------------------------------------------

    def admission(self, decision: AdmissionDecision) -> None:
        """Count who was refused at the door."""
        self._inner.admission(decision)
        if not decision.is_taken and decision.cause not in _LATER:
            self._count.of(decision.priority).num_shed += 1

    def waits(self, task: GenerationTask, choice: NoCapacity, *, num_waiting: int) -> None:
        """Pass on."""
        self._inner.waits(task, choice, num_waiting=num_waiting)

    def placed(self, task: GenerationTask, placement: Placement, *, waited_s: float) -> None:
        """Count the two ways."""
        self._inner.placed(task, placement, waited_s=waited_s)
        if placement.cause.is_split:
            self._count.num_split += 1
        else:
            self._count.num_local += 1

    def reserved(self, task: GenerationTask, *, outcome: str, waited_s: float) -> None:
        """Pass on."""
        self._inner.reserved(task, outcome=outcome, waited_s=waited_s)

    def retried(self, task: GenerationTask, *, reason: str, again: Requeue | None = None) -> None:
        """Count further attempts."""
        self._inner.retried(task, reason=reason, again=again)
        self._count.num_retried += 1

    def handover_failed(self, pair: Pair, *, reason: str, state: PairState) -> None:
        """Pass on."""
        self._inner.handover_failed(pair, reason=reason, state=state)

    def ended(self, task: GenerationTask, ended: Ended) -> None:
        """Count how it ended, and whether its promise was kept."""
        self._inner.ended(task, ended)
        if ended.outcome is Outcome.CANCELLED:
            return
        count = self._count.of(task.priority)
        if ended.outcome is Outcome.SHED:
            count.num_shed += 1
        elif ended.outcome is not Outcome.OK:
            count.num_other += 1
        else:
            count.num_ok += 1
            self._count.prompt_tokens += ended.usage.prompt_tokens
            self._count.cached_tokens += ended.usage.cached_tokens
        if ended.outcome is Outcome.OK and ended.timings.ttft_ms is not None:
            ttft_s = ended.timings.ttft_ms / 1e3
            count.num_in_time += ttft_s <= self.promised_s.get(task.priority, math.inf)
            if len(count.ttfts_s) < _MOST_TIMES:
                count.ttfts_s.append(ttft_s)

    def depth(self, *, num_queued: int, num_live: int) -> None:
        """Pass on."""
        self._inner.depth(num_queued=num_queued, num_live=num_live)


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)] if ordered else None
