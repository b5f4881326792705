"""What a worker tells of its prefix cache: names of blocks, changes, snapshots. Values only.

They cross processes (``tandem.rpc`` carries them); what makes and reads them is in ``tandem.prefix_cache``.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

from tandem.core.ids import Epoch

BlockKey = NewType("BlockKey", bytes)
"""Name of one full block of a prefix: 32 bytes, the same on every worker and router of a cluster."""

KEY_BYTES = 32


class Tier(StrEnum):
    """Where a cached block's bytes lie, fastest first."""

    DEVICE = "device"
    HOST = "host"
    REMOTE = "remote"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """These blocks can be had from ``tier`` now; parents come before their children."""

    keys: tuple[BlockKey, ...]
    tier: Tier


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """These blocks can't be had from ``tier`` any more."""

    keys: tuple[BlockKey, ...]
    tier: Tier


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleared:
    """Nothing can be had any more, from any tier."""


KvEvent = Stored | Removed | Cleared


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberedEvent:
    """One event with its number: 1, 2, 3, … within one epoch."""

    sequence: int
    event: KvEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything held when event ``sequence`` had been made; later events follow it."""

    sequence: int
    held: tuple[Stored, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """Answer to a watcher: an optional snapshot, then the events after it (or after what it asked for)."""

    epoch: Epoch
    snapshot: Snapshot | None
    events: tuple[NumberedEvent, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchFrom:
    """What to ask a worker for: events from ``start_sequence`` of life ``epoch``; no epoch = everything."""

    epoch: Epoch | None
    start_sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotPart:
    """A piece of a snapshot, small enough for one message. With ``first``, what was known before is forgotten."""

    sequence: int
    held: tuple[Stored, ...]
    first: bool
    last: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TierCost:
    """What bringing blocks from a slower tier into the KV pool costs a worker, as measured."""

    tier: Tier
    fixed_s: float  # before the first byte
    s_per_byte: float


@dataclass(frozen=True, slots=True, kw_only=True)
class KvUpdate:
    """One message to a watcher; without a part and events it only says that nothing happened.

    ``waited_s``: how long the oldest event in it has waited at the worker. ``last_sequence``: the newest event made.
    ``costs``: of each slower tier that the worker has.
    """

    epoch: Epoch
    last_sequence: int
    waited_s: float = 0.0
    snapshot: SnapshotPart | None = None
    events: tuple[NumberedEvent, ...] = ()
    costs: tuple[TierCost, ...] = ()
