"""The model of `cluster.yaml`: what a cluster is made of. No I/O; the loader is `tandem.core.config.yaml_file`."""

from typing import Annotated, Literal

import pydantic

from tandem.cluster.config.units import Bytes
from tandem.core.config.model import ConfigModel
from tandem.rpc.channels import is_loopback
from tandem.rpc.config import ApiKey, TlsFiles

Port = Annotated[int, pydantic.Field(ge=0, le=65535)]
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


class AuthSection(ConfigModel):
    """Who may call the public port."""

    keys: list[ApiKey] = pydantic.Field(min_length=1)
    """Accepted keys; a request without one of them is refused."""

    @pydantic.model_validator(mode="after")
    def _ids_are_unique(self) -> "AuthSection":
        ids = [key.id for key in self.keys]
        twice = sorted({i for i in ids if ids.count(i) > 1})
        if twice:
            raise ValueError(f"key id {twice[0]!r} is given twice")
        return self


class RouterSection(ConfigModel):
    """The front door."""

    host: str = "127.0.0.1"
    """Address that the public port binds to."""
    port: Port = 8700
    """Public gRPC port; 0 takes a free one."""
    internal_host: str = "127.0.0.1"
    """Address of the internal port, which workers reach."""
    internal_port: Port = 0
    """Internal gRPC port (registry, status, administration); 0 takes a free one."""
    tls: TlsFiles | None = None
    """TLS of the public port."""
    auth: AuthSection | None = None
    """Bearer keys; without them only loopback is served, as tenant `local`."""
    insecure: bool = False
    """Allow a public port beyond loopback without TLS or keys. Everybody who reaches it can use it."""
    metrics_port: Port | None = None
    """Port of the Prometheus page; nothing = no such page."""
    mode: Literal["auto", "split", "aggregated"] = "auto"
    """`auto` splits a request when that is predicted to pay; `split` and `aggregated` force one way."""
    max_queue_s: float = pydantic.Field(default=30.0, gt=0)
    """Work, in predicted seconds, that may wait before new requests are shed."""
    default_timeout_s: float = pydantic.Field(default=600.0, gt=0)
    """Deadline of a request that brings none."""

    @pydantic.model_validator(mode="after")
    def _beyond_loopback_needs_protection(self) -> "RouterSection":
        if not is_loopback(self.host) and not self.insecure and (self.tls is None or self.auth is None):
            raise ValueError(
                f"host {self.host} is reachable from elsewhere: give tls and auth, or start with --insecure"
            )
        return self


class PoolSection(ConfigModel):
    """One pool of equal workers."""

    replicas: int = pydantic.Field(default=1, ge=0, le=4096)
    """Workers in the pool."""
    cpus: float = pydantic.Field(default=1.0, gt=0)
    """CPU cores that one worker takes (what Ray reserves)."""
    gpus: float = pydantic.Field(default=0.0, ge=0)
    """GPUs that one worker takes."""


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


class EngineSection(ConfigModel):
    """How each worker runs the model."""

    block_size: int = pydantic.Field(default=16, ge=1, le=256)
    """Tokens in one KV block."""
    kv_memory: Bytes = 1 << 30
    """Memory of each worker's KV pool, e.g. `1GiB`."""
    max_batched_tokens: int = pydantic.Field(default=512, ge=16)
    """Prompt tokens that one prefill step computes at most: the chunk."""
    max_sequences: int = pydantic.Field(default=64, ge=1)
    """Sequences that one decode worker runs at once."""
    max_context_tokens: int | None = pydantic.Field(default=None, ge=16)
    """Longest prompt + answer; nothing = what the model allows."""
    batching: Literal["continuous", "dynamic", "static"] = "continuous"
    """Batching policy; the other two are baselines for comparisons."""
    threads: int = pydantic.Field(default=1, ge=1)
    """CPU threads of one worker's forward pass. More threads than cores is much slower, not a little."""
    device: str = pydantic.Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """Where the model runs; `auto` takes a GPU when the worker has one."""


class TransferSection(ConfigModel):
    """How KV moves from prefill to decode workers."""

    transports: list[Literal["shm", "tcp"]] = pydantic.Field(default=["shm", "tcp"], min_length=1)
    """Allowed transports, best first; shm is used between workers of one host."""
    host: str = "127.0.0.1"
    """Address that decode workers listen on for KV over TCP."""


class SecuritySection(ConfigModel):
    """Internal connections: router to workers, worker to worker."""

    mtls: TlsFiles | None = None
    """Certificate, key and CA that every internal side shows and demands (`tandem certs init` makes a set)."""


class RegistrySection(ConfigModel):
    """Where workers announce themselves."""

    redis_url: str | None = pydantic.Field(default=None, pattern=r"^(redis|rediss|unix)://.+")
    """A Redis to use; nothing = an embedded one started by us, and without that package the router's memory."""
    embedded: bool = True
    """Start an embedded Redis-compatible server when no URL is given."""
    namespace: Name = "tandem"
    """Prefix of every key."""


class ObservabilitySection(ConfigModel):
    """Logs."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe line that is written."""
    log_style: Literal["console", "json"] = "console"
    """Lines for people or for machines."""


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
    router: RouterSection = RouterSection()
    """The front door."""
    pools: PoolsSection = PoolsSection()
    """How many workers of each role."""
    engine: EngineSection = EngineSection()
    """How workers run the model."""
    transfer: TransferSection = TransferSection()
    """How KV moves."""
    security: SecuritySection = SecuritySection()
    """Internal TLS."""
    registry: RegistrySection = RegistrySection()
    """Where workers announce themselves."""
    observability: ObservabilitySection = ObservabilitySection()
    """Logs."""
