"""What a worker tells a router that asks who it is (apart from the cluster status, which needs no numpy)."""

from dataclasses import dataclass, field

from tandem.core.latency import LatencyCoefficients
from tandem.core.types import WorkerInfo, WorkerLoad


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerHoldings:
    """What a worker holds on to, besides KV blocks: what must be 0, or constant, when no request runs."""

    num_attempts: int = 0  # attempts that routers wait for
    num_handovers: int = 0  # hand-overs that are not over, on this side
    num_sessions: int = 0  # attached routers
    num_tasks: int = 0  # tasks of the event loop


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerDescription:
    """What a worker answers when asked who it is."""

    info: WorkerInfo
    latency: LatencyCoefficients
    load: WorkerLoad
    draining: bool = False
    busy_s: float = 0.0  # time spent in forward steps since the start
    holdings: WorkerHoldings = field(default_factory=WorkerHoldings)
