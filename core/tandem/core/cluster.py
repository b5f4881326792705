"""What a router tells an operator about its cluster."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

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
