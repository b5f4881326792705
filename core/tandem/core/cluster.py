"""What a router tells an operator about its cluster."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tandem.core.ids import WorkerId
from tandem.core.types import WorkerInfo, WorkerLoad


class WorkerState(StrEnum):
    """Whether a router gives work to a worker."""

    CONNECTING = "connecting"  # registered, not attached yet
    READY = "ready"
    SUSPECT = "suspect"  # silent for too long; gets no new work
    DRAINING = "draining"
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """One worker as a router sees it; None where it has said nothing yet."""

    info: WorkerInfo
    state: WorkerState
    load: WorkerLoad | None = None
    silent_ms: float | None = None  # since its last sign of life


class PairState(StrEnum):
    """What a router thinks of handing KV from one prefill worker to one decode worker."""

    FAILING = "failing"  # the last hand-over failed; the pair is still used
    OPEN = "open"  # not used until it is probed
    PROBING = "probing"  # one request tries it
    UNEQUAL = "unequal"  # the two store KV differently: never used


@dataclass(frozen=True, slots=True, kw_only=True)
class PairStatus:
    """One pair of workers that is not plainly well."""

    prefill_worker: WorkerId
    decode_worker: WorkerId
    state: PairState
    num_failures: int = 0  # in a row
    last_reason: str = ""
    probe_in_ms: float | None = None  # None = no probe is due


class ServingMode(StrEnum):
    """Which way prompts take at present."""

    SPLIT = "split"  # nearly all are computed by a prefill worker and handed over
    MIXED = "mixed"
    AGGREGATED = "aggregated"  # nearly all are computed where they decode


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingStatus:
    """How requests are placed at present: ``cause`` is the most frequent one of the last placements."""

    mode: ServingMode = ServingMode.SPLIT
    cause: str = ""
    since_s: float = 0.0  # for how long
    num_placed: Mapping[str, int] = field(default_factory=dict)  # by cause, since the start


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterStatus:
    """Summary of a cluster, as one router sees it."""

    model: str
    ready: bool
    router_id: str
    uptime_s: float
    not_ready_reason: str = ""
    num_queued: int = 0
    num_running: int = 0
    num_ended: Mapping[str, int] = field(default_factory=dict)  # by outcome
    workers: tuple[WorkerStatus, ...] = ()
    num_in_flight: int = 0  # attempts counted on workers
    num_tasks: int = 0  # of the router's event loop
    pairs: tuple[PairStatus, ...] = ()  # those that are not plainly well
    num_stale: int = 0  # messages of workers about attempts that are over; dropped
    num_isolated: int = 0  # requests suspected of killing workers, waiting to be tried alone
    serving: ServingStatus = field(default_factory=ServingStatus)
    cache_hit_rates: Mapping[str, float] = field(default_factory=dict)  # by tier: share of all prompt tokens
