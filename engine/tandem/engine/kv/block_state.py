"""States of a KV block, the counts per state, and what can go wrong with them. Values only."""

from dataclasses import dataclass
from enum import Enum

from tandem.core import reasons
from tandem.core.errors import InternalError, Overloaded


class BlockState(Enum):
    """What a block is used for; the value is its letter in pictures of the table."""

    FREE = "."
    FILLING = "f"
    SEALED = "S"
    RECEIVING = "r"
    COMMITTED = "C"
    CACHED = "k"  # full, checked, never written again; attempts borrow it
    RELEASED = "x"  # nobody owns it any more, but a hand-over thread is still at it


class Placement(Enum):
    """Where new blocks lie; see ``free_runs``."""

    PACKED = "packed"
    WITH_ROOM = "with room"


class NoBlocks(Overloaded):
    """Not enough free blocks at present."""

    reason = reasons.NO_BLOCKS


class IntegrityError(InternalError):
    """The books do not balance: a defect, never a matter of load. The message shows the table."""

    reason = "KV_TABLE_INTEGRITY"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockCounts:
    """Blocks per state; they add up to ``total``. Of the cached ones ``idle`` can be had, ``kept`` are pinned."""

    total: int
    free: int
    filling: int
    sealed: int
    receiving: int
    committed: int
    released: int
    cached: int = 0
    idle: int = 0
    kept: int = 0
