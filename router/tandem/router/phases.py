"""Where one request's time goes, seen from the router. Zero I/O; times are handed in.

Durations on a worker come from that worker (its own clock); everything else is between events at the router, so no two
machines' clocks are ever compared.
"""

from tandem.core.messages import HandoverDone, PrefillDone
from tandem.core.types import PhaseTimings


class PhaseClock:
    """Collects the phase timings of one request; a later attempt overwrites the phases of an earlier one."""

    __slots__ = (
        "_arrived_s",
        "_dispatched_s",
        "_first_decode_ms",
        "_first_token_s",
        "_handed_over_s",
        "_handover_bytes",
        "_handover_ms",
        "_prefill_ms",
        "_skipped_bytes",
        "_tokenize_ms",
        "_wait_ms",
        "is_waiting",
    )

    def __init__(self, *, arrived_s: float, tokenize_ms: float | None = None) -> None:
        self._arrived_s = arrived_s
        self._tokenize_ms = tokenize_ms
        self._dispatched_s: float | None = None
        self._first_token_s: float | None = None
        self._handed_over_s: float | None = None
        self._wait_ms = 0.0
        self._prefill_ms: float | None = None
        self._handover_ms: float | None = None
        self._handover_bytes: int | None = None
        self._skipped_bytes: int | None = None
        self._first_decode_ms: float | None = None
        self.is_waiting = True  # False once no token can tell anything new: keeps the hot path short

    def dispatched(self, now_s: float) -> None:
        """An attempt went out; only the first one ends the wait in the queue."""
        if self._dispatched_s is None:
            self._dispatched_s = now_s

    def prefilled(self, event: PrefillDone, now_s: float) -> None:
        """The prompt is computed."""
        if self._prefill_ms is None:
            self._wait_ms = event.wait_ms
            self._prefill_ms = event.compute_ms

    def handed_over(self, event: HandoverDone, now_s: float) -> None:
        """The KV is at D."""
        if self._handed_over_s is None:
            self._handed_over_s = now_s
            self._handover_ms = event.exposed_ms
            self._handover_bytes = event.num_bytes
            self._skipped_bytes = event.num_skipped_bytes

    def token(self, now_s: float, *, from_decode: bool) -> None:
        """A token was forwarded."""
        if self._first_token_s is None:
            self._first_token_s = now_s
        if from_decode:
            if self._handed_over_s is not None:
                self._first_decode_ms = (now_s - self._handed_over_s) * 1e3
            self.is_waiting = False

    def timings(self, now_s: float) -> PhaseTimings:
        """Sum up; ``queue`` holds the waits at the router and at the worker."""
        queued_s = None if self._dispatched_s is None else self._dispatched_s - self._arrived_s
        queue_ms = None if queued_s is None else queued_s * 1e3 - (self._tokenize_ms or 0.0) + self._wait_ms
        return PhaseTimings(
            tokenize_ms=self._tokenize_ms,
            queue_ms=None if queue_ms is None else max(queue_ms, 0.0),
            prefill_ms=self._prefill_ms,
            handover_ms=self._handover_ms,
            first_decode_ms=self._first_decode_ms,
            ttft_ms=None if self._first_token_s is None else (self._first_token_s - self._arrived_s) * 1e3,
            total_ms=(now_s - self._arrived_s) * 1e3,
            handover_bytes=self._handover_bytes,
            handover_skipped_bytes=self._skipped_bytes,
        )
