"""What a controller wants to know of the requests here: when they came, what they were, how they fared. Bounded.

Gaps between a request's tokens are kept until its end, then their 95th percentile alone.
"""

import math
import weakref
from array import array
from collections import deque
from dataclasses import dataclass

from tandem.core.clock import Clock
from tandem.core.traffic import EndedRequest, OpenRequest, TrafficReport
from tandem.core.types import GenerationTask, PriorityClass, TokenDelta
from tandem.router.actions import Ended, Started
from tandem.router.client_stream import Sink

_MOST_ARRIVALS = 4096  # per class
_MOST_ENDED = 1024
_MOST_OPEN = 4096
_MOST_GAPS = 512  # per request
MAX_WINDOW_S = 600.0


@dataclass(frozen=True, slots=True)
class _Ended:
    at_s: float
    request: EndedRequest


class TrafficMeter:
    """The recent requests of this router."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.num_output_tokens = 0  # given to callers since the start
        self._started_s = clock.now_s()
        self._arrivals: dict[PriorityClass, deque[float]] = {}
        self._ended: deque[_Ended] = deque(maxlen=_MOST_ENDED)
        # By weak reference: a request that is refused at once drops its sink without a word.
        self._open: weakref.WeakSet[MeteredSink] = weakref.WeakSet()

    def watch(self, sink: Sink, task: GenerationTask, *, arrived_s: float) -> Sink:
        """Count an arrival, whatever becomes of it; return the sink to put its output into."""
        self._arrivals.setdefault(task.priority, deque(maxlen=_MOST_ARRIVALS)).append(arrived_s)
        metered = MeteredSink(sink, task, arrived_s=arrived_s, meter=self)
        self._open.add(metered)
        return metered

    def note(self, sink: "MeteredSink", request: EndedRequest, now_s: float) -> None:
        """One request is over."""
        self._open.discard(sink)
        self._ended.append(_Ended(now_s, request))

    def report(self, router_id: str, window_s: float, *, queued_work_s: float, borrow_share: float) -> TrafficReport:
        """Return the last ``window_s`` seconds, or as many as are known."""
        now_s = self.clock.now_s()
        window_s = min(window_s, MAX_WINDOW_S, now_s - self._started_s)
        for times in self._arrivals.values():
            if len(times) == _MOST_ARRIVALS:
                window_s = min(window_s, now_s - times[0])
        since_s = now_s - window_s
        arrivals = {p: tuple(now_s - at for at in times if at >= since_s) for p, times in self._arrivals.items()}
        return TrafficReport(
            router_id=router_id,
            window_s=window_s,
            arrivals={priority: ages for priority, ages in arrivals.items() if ages},
            ended=tuple(_aged(entry, now_s) for entry in self._ended if entry.at_s >= since_s),
            open=tuple(sorted((each.open(now_s) for each in self._open), key=lambda r: -r.age_s)[-_MOST_OPEN:]),
            queued_work_s=queued_work_s,
            borrow_share=borrow_share,
        )


class MeteredSink:
    """Passes on what the dispatcher puts, and keeps the times."""

    __slots__ = (
        "__weakref__", "_arrived_s", "_gaps", "_inner", "_last_s", "_meter", "_num_cached", "_num_output", "_task"
    )  # fmt: skip

    def __init__(self, inner: Sink, task: GenerationTask, *, arrived_s: float, meter: TrafficMeter) -> None:
        self._inner = inner
        self._task = task
        self._arrived_s = arrived_s
        self._meter = meter
        self._last_s: float | None = None
        self._gaps = array("f")
        self._num_cached = 0
        self._num_output = 0

    def open(self, now_s: float) -> OpenRequest:
        """Return what is known of it before its end."""
        return OpenRequest(
            age_s=now_s - self._arrived_s,
            priority=self._task.priority,
            new_tokens=max(len(self._task.prompt_token_ids) - self._num_cached, 0),
            cached_tokens=self._num_cached,
            output_tokens=self._num_output,
            max_output_tokens=self._task.stop.max_tokens * self._task.num_sequences,
        )

    def put_started(self, started: Started) -> None:
        """Pass on, and note what is cached."""
        self._num_cached = started.num_cached_tokens
        self._inner.put_started(started)

    def put_delta(self, delta: TokenDelta) -> None:
        """Note the gap and pass on. Of several sequences the shortest gaps are seen: they share their steps."""
        now_s = self._meter.clock.now_s()
        if self._last_s is not None and len(self._gaps) < _MOST_GAPS:
            self._gaps.append((now_s - self._last_s) / max(len(delta.token_ids), 1))
        self._last_s = now_s
        self._num_output += len(delta.token_ids)
        self._meter.num_output_tokens += len(delta.token_ids)
        self._inner.put_delta(delta)

    def put_ended(self, ended: Ended) -> None:
        """Pass on, and sum up."""
        self._inner.put_ended(ended)
        now_s = self._meter.clock.now_s()
        timings, usage = ended.timings, ended.usage
        ttft_s = None if timings.ttft_ms is None else timings.ttft_ms / 1e3
        e2e_s = now_s - self._arrived_s
        num_gaps = usage.output_tokens / max(self._task.num_sequences, 1) - 1.0
        has_gaps = ttft_s is not None and num_gaps > 0.0
        self._meter.note(
            self,
            EndedRequest(
                age_s=0.0,
                priority=self._task.priority,
                outcome=ended.outcome,
                new_tokens=max(usage.prompt_tokens - usage.cached_tokens, 0),
                cached_tokens=usage.cached_tokens,
                output_tokens=usage.output_tokens,
                ttft_s=ttft_s,
                tpot_s=(e2e_s - ttft_s) / num_gaps if has_gaps and ttft_s is not None else None,
                gap_p95_s=_percentile_95(self._gaps),
                e2e_s=e2e_s,
            ),
            now_s,
        )

    def put_keep_alive(self) -> None:
        """Pass on."""
        self._inner.put_keep_alive()


def _percentile_95(values: "array[float]") -> float | None:
    if not values:
        return None
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]


def _aged(entry: _Ended, now_s: float) -> EndedRequest:
    request = entry.request
    return EndedRequest(
        age_s=now_s - entry.at_s,
        priority=request.priority,
        outcome=request.outcome,
        new_tokens=request.new_tokens,
        cached_tokens=request.cached_tokens,
        output_tokens=request.output_tokens,
        ttft_s=request.ttft_s,
        tpot_s=request.tpot_s,
        gap_p95_s=request.gap_p95_s,
        e2e_s=request.e2e_s,
    )
