"""The cluster's small shared memory: named records with compare-and-set. The protocol, and one that lives in memory.

A record that is lost is written anew by whoever needs it: nothing's safety depends on one.
"""

from typing import Final, Protocol

from tandem.core.errors import InvalidArgument, Overloaded
from tandem.core.traffic import StoredRecord, Written

POLICY_RECORD: Final = "policy"
MAX_RECORD_BYTES: Final = 256 * 1024
_MAX_RECORDS = 32


class RecordStore(Protocol):
    """Where records are kept. Raises Unavailable when it can't be asked."""

    async def read(self, key: str) -> StoredRecord | None:
        """Return a record; None = there is none."""
        ...

    async def write(self, key: str, value: bytes, *, expected_version: int) -> Written:
        """Write if ``expected_version`` is stored now (0 = nothing is)."""
        ...

    async def close(self) -> None:
        """Close connections."""
        ...


class MemoryRecords:
    """Records of one process."""

    def __init__(self) -> None:
        self._records: dict[str, StoredRecord] = {}

    async def read(self, key: str) -> StoredRecord | None:
        """Return a record; None = there is none."""
        return self._records.get(key)

    async def write(self, key: str, value: bytes, *, expected_version: int) -> Written:
        """Write if ``expected_version`` is stored now. Raises InvalidArgument, or Overloaded for too many records."""
        check_record(key, value)
        known = self._records.get(key)
        if (0 if known is None else known.version) != expected_version:
            return Written(done=False, record=known)
        if known is None and len(self._records) >= _MAX_RECORDS:
            raise Overloaded(f"{_MAX_RECORDS} records are kept already", reason="TOO_MANY_RECORDS")
        record = self._records[key] = StoredRecord(version=expected_version + 1, value=value)
        return Written(done=True, record=record)

    async def close(self) -> None:
        """Nothing is open."""


def check_record(key: str, value: bytes) -> None:
    """Raise InvalidArgument for a name or a size that no store takes."""
    if not key.isidentifier() or len(key) > 64:
        raise InvalidArgument("key", f"is {key[:64]!r}", remedy="use up to 64 letters, digits and underscores")
    if len(value) > MAX_RECORD_BYTES:
        raise InvalidArgument("value", f"has {len(value)} bytes", remedy=f"use at most {MAX_RECORD_BYTES}")


async def overwrite(store: RecordStore, key: str, value: bytes) -> StoredRecord:
    """Write whatever is there. Raises Overloaded when others write all the time."""
    known = await store.read(key)
    for _ in range(16):
        written = await store.write(key, value, expected_version=0 if known is None else known.version)
        if written.done and written.record is not None:
            return written.record
        known = written.record
    raise Overloaded(f"record {key} is written by others all the time", reason="RECORD_CONTENDED")
