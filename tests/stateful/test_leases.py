"""The lease table under any order of events, and every planted defect found."""

import pytest

from tandem.kvtransfer.machine.lease import (
    LeaseDropped,
    LeaseEvent,
    LeaseExpired,
    LeaseRenewed,
    LeaseScan,
    LeaseStarted,
    LeaseTable,
)
from tests.stateful.lease_machine import LeaseMachine
from tests.stateful.running import hunt, walk


class ScanStopsEarly(LeaseTable):
    """Mutant (vLLM #58222): the reaper stops at the first lease that has not ended."""

    def on_event(self, now_s: float, event: LeaseEvent) -> list[LeaseExpired]:
        if not isinstance(event, LeaseScan):
            return super().on_event(now_s, event)
        expired = []
        for key, end_s in list(self._ends_s.items()):
            if end_s > now_s:
                break
            del self._ends_s[key]
            expired.append(LeaseExpired(key))
        return expired


class RenewalShortens(LeaseTable):
    """Mutant: a renewal sets the end, wherever it was."""

    def on_event(self, now_s: float, event: LeaseEvent) -> list[LeaseExpired]:
        if isinstance(event, LeaseRenewed) and event.key in self._ends_s:
            self._ends_s[event.key] = now_s + self._renewal_s
            return []
        return super().on_event(now_s, event)


class RenewalRevives(LeaseTable):
    """Mutant: a renewal that comes late begins the lease anew, and nobody will ever drop it."""

    def on_event(self, now_s: float, event: LeaseEvent) -> list[LeaseExpired]:
        if isinstance(event, LeaseRenewed):
            self._ends_s.setdefault(event.key, now_s + self._renewal_s)
        return super().on_event(now_s, event)


class StartAgainExtends(LeaseTable):
    """Mutant: sealing a second time begins the lease anew, so that repetition keeps blocks for ever."""

    def on_event(self, now_s: float, event: LeaseEvent) -> list[LeaseExpired]:
        if isinstance(event, LeaseStarted):
            self._ends_s.pop(event.key, None)
        return super().on_event(now_s, event)


class DropForgotten(LeaseTable):
    """Mutant: a hand-over that is over keeps its lease."""

    def on_event(self, now_s: float, event: LeaseEvent) -> list[LeaseExpired]:
        return [] if isinstance(event, LeaseDropped) else super().on_event(now_s, event)


def _machine(table: type[LeaseTable]) -> type[LeaseMachine]:
    return type(f"Machine{table.__name__}", (LeaseMachine,), {"table_class": table})


def test_table_survives() -> None:
    walk(LeaseMachine, num_examples=100)


@pytest.mark.parametrize(
    ("mutant", "problem"),
    [
        (ScanStopsEarly, "left standing"),
        (RenewalShortens, "before its time"),
        (RenewalRevives, "lost or kept"),
        (StartAgainExtends, "left standing"),
        (DropForgotten, "lost or kept"),
    ],
)
def test_mutant_is_found(mutant: type[LeaseTable], problem: str) -> None:
    hunt(_machine(mutant), problem)
