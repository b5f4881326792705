"""What the past attempts of a request say about where the next one had better not go, and who served it. Zero I/O."""

from dataclasses import dataclass, field

from tandem.core.ids import WorkerId
from tandem.core.inference import ServedBy
from tandem.core.types import GenerationTask
from tandem.router.actions import Pair, Requeue, WorkerKey
from tandem.router.attempt import Attempt
from tandem.router.recovery import PAIR_FAILURES, Failure


@dataclass(slots=True)
class Avoided:
    """Workers and pairs that failed this request. A preference, no ban: the last one left is used all the same."""

    workers: set[WorkerKey] = field(default_factory=set)
    pairs: set[Pair] = field(default_factory=set)

    def note(self, attempt: Attempt, failure: Failure, worker: WorkerKey, *, handed_over: bool) -> Pair | None:
        """Learn from a failed attempt; return the pair if it was the hand-over between its two that failed."""
        self.workers.update(attempt.to_avoid(failure, worker))
        if attempt.pair is None or failure.reason not in PAIR_FAILURES or handed_over:
            return None
        self.pairs.add(attempt.pair)
        return attempt.pair

    def requeue(
        self, task: GenerationTask, failure: Failure, worker: WorkerKey, *, delay_s: float, keeps_kv: bool
    ) -> Requeue:
        """What follows from ``failure``, of which ``worker`` told: ``task`` is placed again, elsewhere if possible."""
        return Requeue(
            task=task,
            reason=failure.reason,
            avoid=frozenset(self.workers),
            avoid_pairs=frozenset(self.pairs),
            delay_s=delay_s,
            worker=worker,
            lost=failure.lost,
            keeps_kv=keeps_kv,
        )


def served_by(attempt: Attempt | None) -> ServedBy:
    """The workers of a request's last attempt; both are D when it computed the prompt itself, empty without any."""
    if attempt is None:
        return ServedBy(prefill_worker=WorkerId(""), decode_worker=WorkerId(""))
    prefill = attempt.decode if attempt.prefill is None else attempt.prefill
    return ServedBy(prefill_worker=prefill.worker_id, decode_worker=attempt.decode.worker_id)
