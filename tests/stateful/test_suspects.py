"""Blame, doubt and turns under kills, cuts and raised steps; every planted defect is found."""

from collections.abc import Hashable

import pytest

from tandem.core.ids import RequestId
from tandem.router.actions import WorkerKey
from tandem.router.crashes import CrashWatch
from tandem.router.live import Live
from tandem.router.suspects import Isolation, Suspicion
from tests.stateful.running import hunt, walk
from tests.stateful.suspects_machine import SuspectsMachine


class CutIsDeath(Suspicion):
    """Mutant: whatever breaks counts as a crash."""

    __slots__ = ()

    def doubt(self, crash: Hashable) -> None:
        pass


class NeverTakenBack(Suspicion):
    """Mutant: a worker that comes back did crash all the same."""

    __slots__ = ()

    def withdraw(self, crash: Hashable) -> None:
        self.confirm(crash)


class NeverSure(Suspicion):
    """Mutant: a doubt that nothing ends."""

    __slots__ = ()

    def confirm(self, crash: Hashable) -> None:
        pass


class OneIsEnough(Suspicion):
    """Mutant: alone in one crash is as good as in two."""

    __slots__ = ()

    @property
    def is_condemned(self) -> bool:
        return self.blame >= 1.0


class NeverHeld(CrashWatch):
    """Mutant: who is in doubt is tried on."""

    def _hold(self, live: Live) -> None:
        self._queue.push_again(live.entry)


class HeldForEver(CrashWatch):
    """Mutant: a worker that comes back helps nobody."""

    def worker_survived(self, worker: WorkerKey, now_s: float) -> None:
        self._held.clear()
        super().worker_survived(worker, now_s)


class Impatient(CrashWatch):
    """Mutant: nobody is given the time to come back."""

    def overdue(self, now_s: float) -> list[WorkerKey]:
        return list(self._doubted_since_s)


class EndlessTurn(Isolation):
    """Mutant: whose turn it is keeps it until it has a worker."""

    def end_if_over(self, request_id: RequestId, *, still_suspected: bool, now_s: float) -> None:
        if not still_suspected or self._turn[request_id].placed_s is not None:
            super().end_if_over(request_id, still_suspected=still_suspected, now_s=now_s)


class LeftInTheQueue(CrashWatch):
    """Mutant: who lost its turn is placed all the same as soon as there is room."""

    def step(self, now_s: float) -> None:
        super().step(now_s)
        for request_id, live in self._lives.items():
            if self._isolation.is_waiting(request_id):
                self._queue.push_again(live.entry)


def _machine(**classes: type) -> type[SuspectsMachine]:
    return type("Suspects", (SuspectsMachine,), classes)


def test_suspects_survive() -> None:
    walk(SuspectsMachine, num_examples=40, num_steps=25)


@pytest.mark.parametrize(
    ("classes", "problem"),
    [
        pytest.param({"suspicion_class": CutIsDeath}, "without two crashes", id="cut"),
        pytest.param({"suspicion_class": NeverTakenBack}, "without two crashes", id="taken-back"),
        pytest.param({"suspicion_class": OneIsEnough}, "without two crashes", id="one"),
        pytest.param({"watch_class": NeverHeld}, "third worker|two places", id="held"),
        pytest.param({"watch_class": HeldForEver}, "forgotten", id="released"),
        pytest.param({"watch_class": Impatient}, "dead before its time", id="patience"),
        pytest.param({"isolation_class": EndlessTurn}, "does not end", id="turn"),
        pytest.param({"watch_class": LeftInTheQueue}, "two places", id="line"),
    ],
)
def test_mutant_is_found(classes: dict[str, type], problem: str) -> None:
    hunt(_machine(**classes), problem, num_steps=20)
