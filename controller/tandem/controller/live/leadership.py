"""Who may command: one record in the cluster's shared memory names the controller's term and when it was last heard.

The record only keeps a second controller quiet while the first one lives. Safety is with the workers, who obey the
highest term that has claimed them: a record that is lost, or two that believe in theirs, does no harm.
"""

import random

import msgspec

from tandem.core.records import RecordStore
from tandem.core.traffic import StoredRecord
from tandem.core.types import Role

LEADER_RECORD = "controller"
_RANDOM_BITS = 10


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """What the record says; also what a successor must know to be as calm as its predecessor."""

    term: int
    controller_id: str
    renewed_unix_s: float
    move_begun_unix_s: float | None = None
    move_ended_unix_s: float | None = None
    last_switch_to: Role | None = None


_DECODER = msgspec.json.Decoder(Lease)


def read_lease(record: StoredRecord | None) -> Lease | None:
    """Return what a record says; None = there is none, or it can't be read."""
    if record is None:
        return None
    try:
        return _DECODER.decode(record.value)
    except msgspec.MsgspecError:
        return None


def next_term(before: Lease | None, *, unix_s: float, at_least: int = 0) -> int:
    """Return a term above all that are known; by the clock and by chance, so that no two controllers draw the same.

    Also when the record was lost: time has gone on since the terms before it were drawn.
    """
    drawn = (int(unix_s * 1e6) << _RANDOM_BITS) + random.SystemRandom().getrandbits(_RANDOM_BITS)
    return max(drawn, at_least + 1, 0 if before is None else before.term + 1)


class Leadership:
    """One controller's hold on the record. Raises Unavailable when the store can't be asked."""

    def __init__(self, store: RecordStore, controller_id: str, *, lease_s: float) -> None:
        self._store = store
        self._controller_id = controller_id
        self._lease_s = lease_s
        self._version = 0
        self.lease: Lease | None = None  # while it is ours
        self.inherited: Lease | None = None  # the one before ours

    async def seek(self, unix_s: float, *, above_term: int = 0) -> bool:
        """Take the record if nobody holds it; True = we lead."""
        record = await self._store.read(LEADER_RECORD)
        before = read_lease(record)
        if before is not None and before.controller_id != self._controller_id:
            silent_s = unix_s - before.renewed_unix_s
            if 0.0 <= silent_s < self._lease_s:
                return False
        lease = Lease(
            term=next_term(before, unix_s=unix_s, at_least=above_term),
            controller_id=self._controller_id,
            renewed_unix_s=unix_s,
            move_begun_unix_s=None if before is None else before.move_begun_unix_s,
            move_ended_unix_s=None if before is None else before.move_ended_unix_s,
            last_switch_to=None if before is None else before.last_switch_to,
        )
        written = await self._store.write(
            LEADER_RECORD, msgspec.json.encode(lease), expected_version=0 if record is None else record.version
        )
        if not written.done or written.record is None:
            return False
        self.lease, self.inherited, self._version = lease, before, written.record.version
        return True

    async def renew(
        self,
        unix_s: float,
        *,
        move_begun_unix_s: float | None = None,
        move_ended_unix_s: float | None = None,
        last_switch_to: Role | None = None,
    ) -> bool:
        """Say that we live, and what a successor must know; False = somebody else leads now."""
        if self.lease is None:
            return False
        lease = msgspec.structs.replace(
            self.lease,
            renewed_unix_s=unix_s,
            move_begun_unix_s=self.lease.move_begun_unix_s if move_begun_unix_s is None else move_begun_unix_s,
            move_ended_unix_s=self.lease.move_ended_unix_s if move_ended_unix_s is None else move_ended_unix_s,
            last_switch_to=self.lease.last_switch_to if last_switch_to is None else last_switch_to,
        )
        written = await self._store.write(LEADER_RECORD, msgspec.json.encode(lease), expected_version=self._version)
        if not written.done and written.record is None:  # the store lost its memory
            written = await self._store.write(LEADER_RECORD, msgspec.json.encode(lease), expected_version=0)
        if not written.done or written.record is None:
            self.lease = None
            return False
        self.lease, self._version = lease, written.record.version
        return True

    def lose(self) -> None:
        """A worker said that another one rules."""
        self.lease = None
