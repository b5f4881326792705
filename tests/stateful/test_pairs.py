"""The breakers of pairs under any schedule, and every planted defect found."""

import pytest

from tandem.core.blocks import AttemptKey
from tandem.core.cluster import PairState
from tandem.router.actions import Pair, WorkerKey
from tandem.router.pairs import PairBreakers
from tests.stateful.pairs_machine import PairsMachine
from tests.stateful.running import hunt, walk


class ManyProbe(PairBreakers):
    """Mutant: whoever comes once the pause is over may try, all at once."""

    def placed(self, pair: Pair, key: AttemptKey) -> None:
        pass


class ProbeWithoutVerdict(PairBreakers):
    """Mutant: a probe that ends without a verdict keeps its turn for ever."""

    def attempt_over(self, key: AttemptKey) -> None:
        pass


class NeverForgiven(PairBreakers):
    """Mutant: a hand-over that came through changes nothing."""

    def worked(self, pair: Pair) -> None:
        pass


class RemembersTheDead(PairBreakers):
    """Mutant: a worker's next life inherits the failures of its last one."""

    def forget(self, worker: WorkerKey) -> None:
        pass


class LateFailuresProlong(PairBreakers):
    """Mutant: each failure begins the pause anew, so that late ones keep a pair shut for as long as they come."""

    def failed(self, pair: Pair, reason: str, now_s: float) -> PairState:
        state = super().failed(pair, reason, now_s)
        trouble = self._troubles[pair]
        if trouble.probe_at_s is not None:
            trouble.probe_at_s = now_s + self._policy.probe_after_s
        return state


class OpensAtOnce(PairBreakers):
    """Mutant: one failure is enough."""

    def failed(self, pair: Pair, reason: str, now_s: float) -> PairState:
        state = super().failed(pair, reason, now_s)
        self._troubles[pair].probe_at_s = now_s + self._policy.probe_after_s
        return state


class NeverOpens(PairBreakers):
    """Mutant: failures are counted, and that is all."""

    def blocked(self, now_s: float) -> frozenset[Pair]:
        return frozenset()


def _machine(breakers: type[PairBreakers]) -> type[PairsMachine]:
    return type(f"Machine{breakers.__name__}", (PairsMachine,), {"breakers_class": breakers})


def test_breakers_survive() -> None:
    walk(PairsMachine, num_examples=40, num_steps=30)


@pytest.mark.parametrize(
    ("mutant", "problem"),
    [
        (ManyProbe, "left alone is used"),
        (ProbeWithoutVerdict, "not tried"),
        (NeverForgiven, "without cause|miscount"),
        (RemembersTheDead, "without cause"),
        (LateFailuresProlong, "not tried"),
        (OpensAtOnce, "without cause"),
        (NeverOpens, "left alone is used"),
    ],
)
def test_mutant_is_found(mutant: type[PairBreakers], problem: str) -> None:
    hunt(_machine(mutant), problem)
