"""What the dispatcher lets others watch: metrics and traces hang here, so that the core knows neither."""

from typing import Protocol

from tandem.core.cluster import PairState
from tandem.core.types import GenerationTask
from tandem.router.actions import Ended, Pair, Requeue
from tandem.router.admission.terms import AdmissionDecision
from tandem.router.placement import NoCapacity, Placement


class Observer(Protocol):
    """Told about the life of requests; must not wait or raise."""

    def admission(self, decision: AdmissionDecision) -> None:
        """A request was taken, refused, or shed while it waited."""
        ...

    def placed(self, task: GenerationTask, placement: Placement, *, waited_s: float) -> None:
        """An attempt goes to its workers."""
        ...

    def waits(self, task: GenerationTask, choice: NoCapacity, *, num_waiting: int) -> None:
        """The head of the queue can't be placed now; told at each look."""
        ...

    def reserved(self, task: GenerationTask, *, outcome: str, waited_s: float) -> None:
        """A request waited for the routers' shared reservations, and this came of it."""
        ...

    def retried(self, task: GenerationTask, *, reason: str, again: Requeue | None = None) -> None:
        """Another attempt was decided; without ``again`` because the request gave its place away."""
        ...

    def handover_failed(self, pair: Pair, *, reason: str, state: PairState) -> None:
        """A hand-over between two workers failed, and the pair is thought of so from now on."""
        ...

    def ended(self, task: GenerationTask, ended: Ended) -> None:
        """A request is over."""
        ...

    def depth(self, *, num_queued: int, num_live: int) -> None:
        """About once a second: what waits and what is there at all."""
        ...


class SilentObserver:
    """Watches nothing."""

    def admission(self, decision: AdmissionDecision) -> None:
        """Nothing."""

    def placed(self, task: GenerationTask, placement: Placement, *, waited_s: float) -> None:
        """Nothing."""

    def waits(self, task: GenerationTask, choice: NoCapacity, *, num_waiting: int) -> None:
        """Nothing."""

    def reserved(self, task: GenerationTask, *, outcome: str, waited_s: float) -> None:
        """Nothing."""

    def retried(self, task: GenerationTask, *, reason: str, again: Requeue | None = None) -> None:
        """Nothing."""

    def handover_failed(self, pair: Pair, *, reason: str, state: PairState) -> None:
        """Nothing."""

    def ended(self, task: GenerationTask, ended: Ended) -> None:
        """Nothing."""

    def depth(self, *, num_queued: int, num_live: int) -> None:
        """Nothing."""
