"""Leases on sealed source blocks: they bound waste on the prefill side and decide nothing about safety. Pure."""

from dataclasses import dataclass

from tandem.kvtransfer.identity import TransferKey
from tandem.kvtransfer.timing import LEASE_RENEWAL_S, LEASE_S


@dataclass(frozen=True, slots=True)
class LeaseStarted:
    """The blocks of ``key`` are sealed and wait to be taken over."""

    key: TransferKey


@dataclass(frozen=True, slots=True)
class LeaseRenewed:
    """The receiver said that it still wants ``key``."""

    key: TransferKey


@dataclass(frozen=True, slots=True)
class LeaseDropped:
    """Nothing of ``key`` is held any more."""

    key: TransferKey


@dataclass(frozen=True, slots=True)
class LeaseScan:
    """Time has passed: look at every lease."""


LeaseEvent = LeaseStarted | LeaseRenewed | LeaseDropped | LeaseScan


@dataclass(frozen=True, slots=True)
class LeaseExpired:
    """Free the blocks of ``key``; the lease is gone."""

    key: TransferKey


class LeaseTable:
    """Who holds sealed blocks, and until when.

    A scan looks at *all* leases: renewals break any order, and stopping at the first unexpired one would strand others.
    """

    def __init__(self, *, lease_s: float = LEASE_S, renewal_s: float = LEASE_RENEWAL_S) -> None:
        self._lease_s = lease_s
        self._renewal_s = renewal_s
        self._ends_s: dict[TransferKey, float] = {}

    def __len__(self) -> int:
        return len(self._ends_s)

    def on_event(self, now_s: float, event: LeaseEvent) -> list[LeaseExpired]:
        """Apply one event; a renewal never shortens a lease and never revives an ended one."""
        match event:
            case LeaseStarted(key):
                self._ends_s.setdefault(key, now_s + self._lease_s)
            case LeaseRenewed(key):
                if key in self._ends_s:
                    self._ends_s[key] = max(self._ends_s[key], now_s + self._renewal_s)
            case LeaseDropped(key):
                self._ends_s.pop(key, None)
            case LeaseScan():
                expired = [key for key, end_s in self._ends_s.items() if end_s <= now_s]
                for key in expired:
                    del self._ends_s[key]
                return [LeaseExpired(key) for key in expired]
        return []
