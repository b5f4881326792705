"""What the supervisor tells each program it starts: one JSON line per process. Zero I/O."""

from pathlib import Path
from typing import Literal

import pydantic

from tandem.core.config.model import ConfigModel
from tandem.core.types import Role
from tandem.engine.config import EngineConfig
from tandem.kvtransfer.timers import LeaseTimers
from tandem.prefix_cache.config import PrefixCacheProgram
from tandem.router.config import RouterConfig
from tandem.rpc.config import TlsFiles


class RegistryTarget(ConfigModel):
    """Where workers announce themselves and the router looks for them."""

    kind: Literal["redis", "router"]
    """`redis`: the server at `url`. `router`: the router's own memory, reached at `address`."""
    url: str = ""
    """Redis URL."""
    namespace: str = "tandem"
    """Prefix of every Redis key."""
    address: str = ""
    """Router's internal address, host:port."""


class WorkerProgramConfig(ConfigModel):
    """One worker process."""

    worker_id: str = pydantic.Field(min_length=1)
    """Name of the worker's slot, e.g. `decode-0`."""
    role: Role
    """What it does."""
    model_folder: Path
    """Prepared model."""
    engine: EngineConfig = EngineConfig()
    """How it runs the model."""
    cache: PrefixCacheProgram = PrefixCacheProgram()
    """Its prefix cache."""
    host: str = "127.0.0.1"
    """Address that the gRPC service and the KV receiver bind to and announce."""
    port: int = pydantic.Field(default=0, ge=0, le=65535)
    """Port of the gRPC service; 0 = any free one."""
    advertise_address: str | None = None
    """host:port under which routers reach the gRPC service, where it is not the one it binds to (NAT, a proxy)."""
    kv_port: int = pydantic.Field(default=0, ge=0, le=65535)
    """Port of the KV receiver over TCP; 0 = any free one."""
    kv_advertise_address: str | None = None
    """host:port under which prefill workers reach the KV receiver, where it is not the one it binds to."""
    transports: list[Literal["shm", "tcp"]] = pydantic.Field(default=["shm", "tcp"], min_length=1)
    """KV transports, best first."""
    drain_s: float = pydantic.Field(default=60.0, ge=0, le=3600)
    """How long running requests may take to end when it is told to leave; then routers continue them elsewhere."""
    registry: RegistryTarget
    """Where it announces itself."""
    lease: LeaseTimers = LeaseTimers()
    """How long a prefill worker holds sealed KV for a decode worker that says nothing."""
    tls: TlsFiles | None = None
    """Internal TLS."""
    insecure: bool = False
    """Allow internal plain text beyond loopback."""
    metrics_host: str = "127.0.0.1"
    """Address of the metrics page."""
    metrics_port: int | None = pydantic.Field(default=None, ge=1, le=65535)
    """Port of the metrics page; nothing = none."""
    event_log: Path | None = None
    """Folder for the event log of each of its lives; nothing = none."""
    log_level: str = "info"
    """Least severe log line."""
    log_style: Literal["console", "json"] = "console"
    """Form of log lines."""


class PrepareProgramConfig(ConfigModel):
    """The process that prepares a model."""

    source: str
    """What the person named as the model."""
    name: str | None = None
    """Name that clients ask for."""
    dtype: str = "float32"
    """Number format of the stored weights."""
    cache_folder: Path
    """Where prepared models are kept."""


class RegistryProgramConfig(ConfigModel):
    """The embedded registry's process."""

    folder: Path
    """Folder of its own, on a local file system; removed at the end."""

    @property
    def socket(self) -> Path:
        """Path of the unix socket."""
        return self.folder / "s"

    @property
    def url(self) -> str:
        """URL of the server."""
        return f"unix://{self.socket}"


class RouterProgramConfig(ConfigModel):
    """The router process."""

    router: RouterConfig
    """The router's own settings."""
    cache: PrefixCacheProgram = PrefixCacheProgram()
    """The workers' prefix caches."""
    model_folder: Path
    """Prepared model."""
    registry: RegistryTarget
    """Where it looks for workers."""
    log_level: str = "info"
    """Least severe log line."""
    log_style: Literal["console", "json"] = "console"
    """Form of log lines."""


class ControllerProgramConfig(ConfigModel):
    """The controller process."""

    controller_id: str = pydantic.Field(default="controller-0", pattern=r"^[a-zA-Z0-9._-]{1,64}$")
    """Name of this controller; its next life under the same name takes over at once."""
    policy: Path | None = None
    """Policy file; nothing = only what is applied counts."""
    registry: RegistryTarget
    """Where it looks for workers and keeps its records."""
    routers: list[str] = pydantic.Field(min_length=1)
    """Internal addresses of the routers, host:port."""
    ray_resource: str | None = None
    """Custom resource of the Ray nodes on which its actor may run; nothing = preferably that of the driver."""
    lease_s: float = pydantic.Field(default=10.0, ge=1.0, le=600.0)
    """How long it must have been silent before another controller takes over."""
    tls: TlsFiles | None = None
    """Internal TLS; the certificate's role must be controller."""
    insecure: bool = False
    """Allow internal plain text beyond loopback."""
    log_level: str = "info"
    """Least severe log line."""
    log_style: Literal["console", "json"] = "console"
    """Form of log lines."""


class PlacedWorker(ConfigModel):
    """One worker and what Ray reserves for it."""

    program: WorkerProgramConfig
    """The worker itself."""
    cpus: float = pydantic.Field(gt=0)
    """CPU cores."""
    gpus: float = pydantic.Field(default=0.0, ge=0)
    """GPUs."""

    def bundle(self) -> dict[str, float]:
        """The resources of its bundle in the placement group."""
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})


class RayOrder(ConfigModel):
    """A line from the supervisor to Ray's driver; exactly one field is set."""

    add: PlacedWorker | None = None
    """Start one more worker."""
    remove: str | None = None
    """Drain a worker and end it for good."""
    controller: ControllerProgramConfig | None = None
    """Run the controller as a detached actor."""


class RayProgramConfig(ConfigModel):
    """Ray's driver process."""

    address: str | None = None
    """Ray cluster to join; nothing = start one for this process alone."""
    namespace: str
    """Ray namespace of the actors' names."""
    placement: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = "PACK"
    """Strategy of the placement group."""
    workers: list[PlacedWorker]
    """Every worker of the cluster."""
    own_resources: dict[str, float] = pydantic.Field(default_factory=dict)
    """Custom resources of a Ray of our own."""
    may_scale: bool = False
    """Further workers may be ordered: a Ray of our own promises room for them."""
    announce_node_address: bool = False
    """Workers bind to and announce the address of the node they run on, not their configured host."""
    temp_folder: Path
    """Where an instance of our own keeps its sockets."""
    log_folder: Path
    """Where workers on this machine write their logs."""
    start_timeout_s: float = pydantic.Field(gt=0)
    """How long the workers may take to be ready."""
    stop_timeout_s: float = pydantic.Field(gt=0)
    """How long a drain may take."""
    log_level: str = "info"
    """Least severe log line."""
    log_style: Literal["console", "json"] = "console"
    """Form of log lines."""
