"""Which pairs (P, D) hand KV over, and which are left alone for a while: one circuit breaker per pair. Zero I/O.

::

    well ──failed──► FAILING ──failed again──► OPEN ──probe_after_s──► PROBING (one attempt tries it)
      ▲                 │                       ▲                        │
      └──handed over────┴───────────────────────┼──────handed over───────┤
                                                └────────failed──────────┘

A cut between two workers that both talk to the router can't be seen in either's health: only their hand-overs tell. So
the *pair* is judged, and both workers go on with others. A pair is remembered only while something is wrong with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tandem.core.blocks import AttemptKey
from tandem.core.cluster import PairState, PairStatus
from tandem.router.actions import Pair, WorkerKey


@dataclass(frozen=True, slots=True, kw_only=True)
class PairPolicy:
    """When a pair is left alone, and for how long."""

    failures_to_open: int = 2
    probe_after_s: float = 10.0


@dataclass(slots=True)
class _Trouble:
    num_failures: int = 0
    reason: str = ""
    probe_at_s: float | None = None  # None = still in use
    prober: AttemptKey | None = None


class PairBreakers:
    """Every pair with a failed hand-over since its last good one."""

    def __init__(self, policy: PairPolicy | None = None) -> None:
        self._policy = policy or PairPolicy()
        self._troubles: dict[Pair, _Trouble] = {}
        self.num_opened = 0

    def __len__(self) -> int:
        return len(self._troubles)

    def blocked(self, now_s: float) -> frozenset[Pair]:
        """Pairs that may not be used now: open ones whose probe is not due, and those that are being probed."""
        if not self._troubles:
            return frozenset()
        return frozenset(
            pair
            for pair, trouble in self._troubles.items()
            if trouble.probe_at_s is not None and (trouble.prober is not None or now_s < trouble.probe_at_s)
        )

    def placed(self, pair: Pair, key: AttemptKey) -> None:
        """An attempt goes to ``pair``; if the pair is open, it is the probe."""
        trouble = self._troubles.get(pair)
        if trouble is not None and trouble.probe_at_s is not None and trouble.prober is None:
            trouble.prober = key

    def worked(self, pair: Pair) -> None:
        """A hand-over came through, whichever attempt's: the pair is well."""
        self._troubles.pop(pair, None)

    def failed(self, pair: Pair, reason: str, now_s: float) -> PairState:
        """A hand-over failed. What fails late, of an attempt placed before the pair opened, opens it no longer.

        Return what is thought of the pair from now on.
        """
        trouble = self._troubles.setdefault(pair, _Trouble())
        trouble.num_failures += 1
        trouble.reason = reason
        is_probe_over = trouble.prober is not None
        if is_probe_over or (trouble.probe_at_s is None and trouble.num_failures >= self._policy.failures_to_open):
            self.num_opened += 1
            trouble.prober = None
            trouble.probe_at_s = now_s + self._policy.probe_after_s
        return _state(trouble)

    def attempt_over(self, key: AttemptKey) -> None:
        """The attempt ended; as a probe without a verdict it leaves its turn to the next."""
        for trouble in self._troubles.values():
            if trouble.prober == key:
                trouble.prober = None

    def forget(self, worker: WorkerKey) -> None:
        """That life of a worker is over: what failed with it says nothing about its next one."""
        for pair in [pair for pair in self._troubles if worker in (pair.prefill, pair.decode)]:
            del self._troubles[pair]

    def statuses(self, now_s: float) -> Sequence[PairStatus]:
        """The pairs in trouble, ordered by name."""
        ordered = sorted(self._troubles.items(), key=lambda item: (item[0].prefill.worker_id, item[0].decode.worker_id))
        return [
            PairStatus(
                prefill_worker=pair.prefill.worker_id,
                decode_worker=pair.decode.worker_id,
                state=_state(trouble),
                num_failures=trouble.num_failures,
                last_reason=trouble.reason,
                probe_in_ms=None if trouble.probe_at_s is None else max(trouble.probe_at_s - now_s, 0.0) * 1e3,
            )
            for pair, trouble in ordered
        ]


def _state(trouble: _Trouble) -> PairState:
    if trouble.probe_at_s is None:
        return PairState.FAILING
    return PairState.OPEN if trouble.prober is None else PairState.PROBING
