"""Fills a worker's instruments from what steps, hand-overs and failures tell. Labels: role, transport, reason; never a
request, a tenant or anything of a prompt.

Engine thread only, save for `show_load` and `show_tiers`, which are called once before the start.
"""

from collections.abc import Callable
from typing import Final

from opentelemetry.metrics import Meter

from tandem.core.cache import TierStats
from tandem.core.ids import WorkerId
from tandem.core.messages import AttemptFailed, Command, PrefillDone
from tandem.core.types import Role, WorkerLoad
from tandem.engine.results import StepResult
from tandem.kvtransfer.stats import TransferStats
from tandem.rpc.telemetry import (
    ATTRIBUTE_COMMAND,
    ATTRIBUTE_REASON,
    ATTRIBUTE_ROLE,
    ATTRIBUTE_TRANSPORT,
    show_cache_tiers,
    show_worker_load,
    worker_metrics,
)

# Each value of a label is a time series for ever, and a reason may come from the other side of a hand-over.
_MAX_REASONS: Final = 64
OTHER_REASON: Final = "OTHER"


class WorkerInstruments:
    """The measuring side of one worker in one role."""

    def __init__(self, *, meter: Meter, role: Role) -> None:
        self._meter = meter
        self._metrics = worker_metrics(meter)
        self._role = {ATTRIBUTE_ROLE: role.value}
        self._reasons: set[str] = set()

    def serve_as(self, role: Role) -> None:
        """From now on everything is counted under ``role``."""
        self._role = {ATTRIBUTE_ROLE: role.value}

    def show_load(self, worker_id: WorkerId, read: Callable[[], WorkerLoad]) -> None:
        """Show the worker's load as gauges; ``read`` must be safe from any thread."""
        show_worker_load(self._meter, worker_id, read)

    def show_tiers(self, read: Callable[[], tuple[TierStats, ...]]) -> None:
        """Show what lies in the tiers of the cache and what they did; ``read`` must be safe from any thread."""
        show_cache_tiers(self._meter, read)

    def stepped(self, result: StepResult) -> None:
        """A forward step was made."""
        metrics, stats = self._metrics, result.stats
        metrics.step_duration_s.record(stats.wall_s, self._role)
        if stats.num_prefill_tokens:
            metrics.prefill_tokens.add(stats.num_prefill_tokens, self._role)
        if stats.num_decode_rows:
            metrics.decode_tokens.add(stats.num_decode_rows, self._role)
        if stats.num_preempted:
            metrics.preemptions.add(stats.num_preempted, self._role)
        for event in result.events:
            if isinstance(event, AttemptFailed):
                self.attempt_failed(event.reason)
            elif isinstance(event, PrefillDone) and event.num_cached_tokens:
                metrics.cached_tokens.add(event.num_cached_tokens, self._role)

    def handed_over(self, stats: TransferStats) -> None:
        """KV came in whole and verified, and decoding begins."""
        labels = {ATTRIBUTE_TRANSPORT: stats.transport}
        self._metrics.handover_duration_s.record(stats.total_s, labels)
        self._metrics.handover_bytes.add(stats.num_bytes, labels)
        if stats.num_skipped_bytes:
            self._metrics.handover_skipped_bytes.add(stats.num_skipped_bytes, labels)

    def handover_failed(self, reason: str) -> None:
        """A hand-over can't succeed any more, and its attempt with it."""
        self._metrics.handover_failures.add(1, self._labels(reason))
        self.attempt_failed(reason)

    def stale_command(self, command: Command) -> None:
        """A router spoke of an attempt that is not here (any more); nothing was done."""
        self._metrics.stale_commands.add(1, {**self._role, ATTRIBUTE_COMMAND: type(command).__name__})

    def attempt_failed(self, reason: str) -> None:
        """An attempt, or one sequence of it, was refused or failed."""
        self._metrics.attempt_failures.add(1, self._labels(reason))

    def _labels(self, reason: str) -> dict[str, str]:
        if reason not in self._reasons:
            if len(self._reasons) >= _MAX_REASONS:
                reason = OTHER_REASON
            else:
                self._reasons.add(reason)
        return {**self._role, ATTRIBUTE_REASON: reason}
