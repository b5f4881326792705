"""What a chaos cluster is made of. Zero I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tandem.chaos.tagged.model import TaggedShape
from tandem.chaos.tagged.settings import TaggedCost


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerChaos:
    """What is special about one worker. Fields that are None are as on every other worker."""

    variables: Mapping[str, str] = field(default_factory=dict)
    cost: TaggedCost | None = None
    engine: Mapping[str, Any] = field(default_factory=dict)
    port: int = 0
    advertise_address: str | None = None
    kv_port: int = 0
    kv_advertise_address: str | None = None
    program: Mapping[str, Any] = field(default_factory=dict)  # further fields of `TaggedWorkerConfig`


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosOptions:
    """One cluster. ``engine``, ``router`` and ``cluster`` override fields of the product's own configuration."""

    num_prefill: int = 1
    num_decode: int = 1
    shape: TaggedShape = field(default_factory=TaggedShape)
    cost: TaggedCost = field(default_factory=TaggedCost)
    engine: Mapping[str, Any] = field(default_factory=dict)
    router: Mapping[str, Any] = field(default_factory=dict)
    cluster: Mapping[str, Any] = field(default_factory=dict)  # other sections of `cluster.yaml`
    workers: Mapping[str, WorkerChaos] = field(default_factory=dict)  # by worker id, e.g. "decode-0"
    all_workers: WorkerChaos = field(
        default_factory=WorkerChaos
    )  # what every worker has that is not named in ``workers``
    router_variables: Mapping[str, str] = field(default_factory=dict)
    controller_variables: Mapping[str, str] = field(default_factory=dict)
    tenants: tuple[str, ...] = ()  # more than none: each gets a key; a router with keys refuses failpoints
    insecure: bool = False  # the harness may talk to addresses that are not loopback: network namespaces of its own
    transports: tuple[Literal["shm", "tcp"], ...] = ("shm", "tcp")
    registry: Literal["router", "embedded"] = "router"
    event_log: bool = True
    warm_up: bool = True  # a few requests over every pair before the baseline is taken; off where faults wait for them
    folder: Path | None = None  # logs, events, evidence; None = a temporary one, removed at the end
    log_level: str = "warning"
    worker_module: str = "tandem.chaos.tagged.worker_process"
