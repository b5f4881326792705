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
