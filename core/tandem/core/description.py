"""What a worker tells a router that asks who it is (apart from the cluster status, which needs no numpy)."""

from dataclasses import dataclass

from tandem.core.latency import LatencyCoefficients
from tandem.core.types import WorkerInfo, WorkerLoad


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerDescription:
    """What a worker answers when asked who it is."""

    info: WorkerInfo
    latency: LatencyCoefficients
    load: WorkerLoad
    draining: bool = False
