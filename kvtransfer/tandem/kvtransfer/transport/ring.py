"""A staging ring: memory of the receiver that one sender may fill. Anonymous, so nothing is ever left in /dev/shm."""

import fcntl
import mmap
import os
from typing import Final

import numpy as np

from tandem.kvtransfer.digest import PIECE_BYTES
from tandem.kvtransfer.errors import ProtocolViolation
from tandem.kvtransfer.grant import MAX_CHUNK_BYTES

NUM_SLOTS: Final = 16
SLOT_BYTES: Final = MAX_CHUNK_BYTES
_MAX_SLOTS: Final = 256
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class StagingRing:
    """``num_slots`` slots of ``slot_bytes`` in a memfd whose size is sealed: no peer can shrink it under the other."""

    def __init__(self, fd: int, *, num_slots: int, slot_bytes: int) -> None:
        """Map ``fd`` and close it."""
        try:
            self._map = mmap.mmap(fd, num_slots * slot_bytes, flags=mmap.MAP_SHARED)
        finally:
            os.close(fd)
        self.num_slots = num_slots
        self.slot_bytes = slot_bytes
        self._view = memoryview(self._map)

    @classmethod
    def attach(cls, fd: int, *, num_slots: int, slot_bytes: int) -> "StagingRing":
        """Map a ring that a peer passed over; raises ProtocolViolation if it is not what was announced."""
        is_sane = 1 <= num_slots <= _MAX_SLOTS and MAX_CHUNK_BYTES <= slot_bytes <= SLOT_BYTES
        try:
            seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
            is_sane = is_sane and seals & _SEALS == _SEALS and os.fstat(fd).st_size == num_slots * slot_bytes
        except OSError:
            is_sane = False
        if not is_sane:
            os.close(fd)
            raise ProtocolViolation("staging ring: not a sealed memory file of the announced size")
        return cls(fd, num_slots=num_slots, slot_bytes=slot_bytes)

    def slot(self, index: int, length: int) -> memoryview:
        """Return the first ``length`` bytes of one slot; raises ProtocolViolation outside the ring."""
        if not (0 <= index < self.num_slots and 0 <= length <= self.slot_bytes):
            raise ProtocolViolation(f"staging ring: slot {index} with {length} bytes")
        start = index * self.slot_bytes
        return self._view[start : start + length]

    def close(self) -> None:
        """Unmap; idempotent. No slot may be in use."""
        self._view.release()
        self._map.close()


def create_ring_fd(*, num_slots: int = NUM_SLOTS, slot_bytes: int = SLOT_BYTES) -> int:
    """Return a new sealed memory file of the ring's size, closed on exec."""
    fd = os.memfd_create("tandem-kv", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, num_slots * slot_bytes)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except OSError:
        os.close(fd)
        raise
    return fd


def copy_piece(target: memoryview, source: memoryview) -> None:
    """Copy equal lengths without holding the interpreter's lock (memoryview assignment would)."""
    np.copyto(np.frombuffer(target, np.uint8), np.frombuffer(source, np.uint8))


def pieces(length: int) -> range:
    """Starts of the pieces of a chunk that are copied and hashed together."""
    return range(0, length, PIECE_BYTES)
