"""The model of `cluster.yaml`: what a cluster is made of. No I/O; the loader is `tandem.core.config.yaml_file`."""

from pathlib import Path
from typing import Annotated, Literal

import pydantic

from tandem.core.config.model import ConfigModel
from tandem.engine.config import EngineConfig
from tandem.prefix_cache.config import PrefixCacheConfig
from tandem.router.config import RouterConfig
from tandem.rpc.config import TlsFiles

Name = Annotated[str, pydantic.Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]


class Metadata(ConfigModel):
    """Who this cluster is."""

    name: Name = "tandem"
    """Name of the cluster; lower-case letters, digits and dashes."""


class ModelSection(ConfigModel):
    """Which model is served."""

    source: str = pydantic.Field(min_length=1)
    """`builtin:smollm2`, a folder with safetensors, a `.gguf` file, or a hub id such as `org/model`."""
    name: str | None = pydantic.Field(default=None, min_length=1, max_length=128)
    """Name that clients ask for; by default made from the source."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format of weights and KV. Use float32 on CPUs, bfloat16 on GPUs."""


class RuntimeSection(ConfigModel):
    """Who starts and supervises the workers."""

    kind: Literal["local", "ray"] = "local"
    """`local`: plain subprocesses on this machine. `ray`: actors in a placement group."""
    address: str | None = None
    """Ray only: address of a running Ray cluster, `auto` to find one; nothing = start one here."""
    placement: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = "PACK"
    """Ray only: strategy of the placement group that holds the workers."""
    start_timeout_s: float = pydantic.Field(default=300.0, gt=0)
    """How long the workers may take to load the model and report ready."""
    stop_timeout_s: float = pydantic.Field(default=60.0, gt=0)
    """How long a drain may take before workers are ended."""


class PoolSection(ConfigModel):
    """One pool of equal workers."""

    replicas: int = pydantic.Field(default=1, ge=0, le=4096)
    """Workers in the pool."""
    cpus: float = pydantic.Field(default=1.0, gt=0)
    """CPU cores that one worker takes (what Ray reserves)."""
    gpus: float = pydantic.Field(default=0.0, ge=0)
    """GPUs that one worker takes."""


class WorkersSection(ConfigModel):
    """What all workers share besides the engine."""

    host: str = "127.0.0.1"
    """Address that workers bind to and announce, for gRPC and for KV over TCP."""
    tls: TlsFiles | None = None
    """Certificate, key and CA of the workers; with them, internal connections are mTLS on both ends."""
    insecure: bool = False
    """Allow plain text between router and workers beyond loopback."""
    metrics_host: str = "127.0.0.1"
    """Address of the workers' metrics pages (Prometheus text over plain HTTP)."""
    metrics_base_port: int | None = pydantic.Field(default=None, ge=1, le=57343)
    """Port of the first worker's metrics page; the others follow, prefill workers first. Not set = none."""
    metrics_port: int | None = pydantic.Field(default=None, ge=1, le=65535)
    """The same port for every worker, in a foreign Ray cluster whose nodes hold one worker each, such as pods."""

    @pydantic.model_validator(mode="after")
    def _one_way_to_number_pages(self) -> "WorkersSection":
        if self.metrics_port is not None and self.metrics_base_port is not None:
            raise ValueError("metrics_port and metrics_base_port exclude each other; leave one of them out")
        return self


class PoolsSection(ConfigModel):
    """The two pools."""

    prefill: PoolSection = PoolSection()
    """Workers that read prompts; 0 replicas = every decode worker prefills for itself."""
    decode: PoolSection = PoolSection()
    """Workers that write answers."""

    @pydantic.model_validator(mode="after")
    def _somebody_decodes(self) -> "PoolsSection":
        if self.decode.replicas < 1:
            raise ValueError("decode.replicas must be at least 1: somebody has to write the answers")
        return self


class TransferSection(ConfigModel):
    """How KV moves from prefill to decode workers."""

    transports: list[Literal["shm", "tcp"]] = pydantic.Field(default=["shm", "tcp"], min_length=1)
    """Allowed transports, best first; shm is used between workers of one host."""


class RegistrySection(ConfigModel):
    """Where workers announce themselves."""

    redis_url: str | None = pydantic.Field(default=None, pattern=r"^(redis|rediss|unix)://.+")
    """A Redis to use; nothing = an embedded one started by us, and without that package the router's memory."""
    embedded: bool = True
    """Start an embedded Redis-compatible server when no URL is given."""
    namespace: Name = "tandem"
    """Prefix of every key."""


class ControllerSection(ConfigModel):
    """Who moves the ratio of prefill to decode workers and their number; see docs/policy.md."""

    enabled: bool = False
    """Run a controller. Without a policy it waits for one (`tandem policy apply`)."""
    policy: Path | None = None
    """Policy file; it is read again when it changes."""
    tls: TlsFiles | None = None
    """Certificate of role controller, its key and the CA; not set = that of the workers."""
    ray_resource: str | None = pydantic.Field(default=None, pattern=r"^[a-z][a-z0-9_]{0,62}$")
    """Ray only: custom resource of the nodes that hold policy file and certificate, where alone the actor may run; not
    set = the node on which the cluster was started, or any other when that one is lost."""


class ObservabilitySection(ConfigModel):
    """Logs."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe line that is written."""
    log_style: Literal["console", "json"] = "console"
    """Lines for people or for machines."""
    event_log: Path | None = None
    """Folder for event logs, which `python -m tandem.chaos.trace` checks; nothing = none. They grow: for tests."""


class ClusterConfig(ConfigModel):
    """A whole cluster, as in `cluster.yaml`."""

    api_version: Literal["tandem/v1"] = pydantic.Field(default="tandem/v1", alias="apiVersion")
    """Version of this file's format."""
    kind: Literal["Cluster"] = "Cluster"
    """Kind of this file."""
    metadata: Metadata = Metadata()
    """Name of the cluster."""
    model: ModelSection
    """Which model is served."""
    runtime: RuntimeSection = RuntimeSection()
    """Who runs the workers."""
    router: RouterConfig = RouterConfig()
    """The front door."""
    pools: PoolsSection = PoolsSection()
    """How many workers of each role."""
    workers: WorkersSection = WorkersSection()
    """What all workers share."""
    engine: EngineConfig = EngineConfig()
    """How workers run the model."""
    transfer: TransferSection = TransferSection()
    """How KV moves."""
    prefix_cache: PrefixCacheConfig = PrefixCacheConfig()
    """How computed prefixes are kept and found again."""
    registry: RegistrySection = RegistrySection()
    """Where workers announce themselves."""
    controller: ControllerSection = ControllerSection()
    """Autoscaling and role switches."""
    observability: ObservabilitySection = ObservabilitySection()
    """Logs."""

    @pydantic.model_validator(mode="after")
    def _workers_of_one_host_differ(self) -> "ClusterConfig":
        if self.workers.metrics_port is not None and (self.runtime.kind != "ray" or self.runtime.address is None):
            raise ValueError(
                "workers.metrics_port is one port for all workers, which share a host here; use metrics_base_port"
            )
        return self
