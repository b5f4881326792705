"""Configuration of the router."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from tandem.core.config.model import ConfigModel
from tandem.core.ids import Tenant
from tandem.core.limits import RequestLimits
from tandem.core.types import PriorityClass
from tandem.router.admission.config import AdmissionSection
from tandem.router.cache.config import CacheSection
from tandem.router.client_stream import StreamBounds
from tandem.router.decisions.config import DecisionsSection
from tandem.router.health import HealthTimers
from tandem.router.live import DispatcherPolicy, OvertakingPolicy
from tandem.router.pairs import PairPolicy
from tandem.router.placement import PlacementMode, PlacementPolicy
from tandem.router.queue import QueueBounds
from tandem.router.recovery import RecoveryPolicy
from tandem.router.sharing import SharingMode, SharingPolicy
from tandem.router.suspects import SuspicionPolicy
from tandem.rpc.config import ApiKey, TlsFiles

Seconds = Annotated[float, Field(gt=0.0, le=3600.0)]
Port = Annotated[int, Field(ge=0, le=65535)]


class LimitsSection(ConfigModel):
    """Upper bounds on one request."""

    max_prompt_bytes: Annotated[int, Field(ge=1, le=64 * 1024 * 1024)] = 256 * 1024
    """Most bytes of text in a prompt or a conversation."""
    max_messages: Annotated[int, Field(ge=1, le=100_000)] = 1024
    """Most turns in a conversation."""
    max_sequences: Annotated[int, Field(ge=1, le=8)] = 8
    """Most sequences per request (n)."""
    max_request_bytes: Annotated[int, Field(ge=1024, le=64 * 1024 * 1024)] = 1024 * 1024
    """Most bytes of one request on the wire."""
    default_max_tokens: Annotated[int, Field(ge=1)] = 256
    """Output tokens per sequence when the caller names no max_tokens; at most what the context leaves."""
    max_concurrent_calls: Annotated[int, Field(ge=1, le=65536)] = 4096
    """Most calls at the same time; further ones are refused at once."""

    def request_limits(self) -> RequestLimits:
        """The limits object that router and workers check with."""
        return RequestLimits(
            max_prompt_bytes=self.max_prompt_bytes,
            max_messages=self.max_messages,
            max_sequences=self.max_sequences,
            max_request_bytes=self.max_request_bytes,
        )


class QueueSection(ConfigModel):
    """How much may wait for a worker."""

    max_count: Annotated[int, Field(ge=1, le=1_000_000)] = 4096
    """Most waiting requests."""
    max_interactive_work_s: Seconds = 10.0
    """Most predicted seconds of work ahead of an interactive request, per prefill worker."""
    max_standard_work_s: Seconds = 30.0
    """The same for a standard request."""
    max_batch_work_s: Seconds = 120.0
    """The same for a batch request."""
    max_wait_s: Seconds = 120.0
    """Longest stay in the queue; then the request is shed."""
    no_worker_wait_s: Seconds = 15.0
    """How long a request waits while no decode worker is alive."""
    batch_floor: Annotated[float, Field(ge=0.0, le=0.5)] = 0.1
    """Share of the work that batch requests get at least while they wait."""
    tenant_weights: Mapping[Tenant, Annotated[float, Field(gt=0.0, le=1000.0)]] = Field(default_factory=dict)
    """Share of a tenant relative to the others; 1 when it is not named."""

    def bounds(self) -> QueueBounds:
        """The queue's own form of this section."""
        return QueueBounds(
            max_count=self.max_count,
            max_work_s={
                PriorityClass.INTERACTIVE: self.max_interactive_work_s,
                PriorityClass.STANDARD: self.max_standard_work_s,
                PriorityClass.BATCH: self.max_batch_work_s,
            },
            batch_floor=self.batch_floor,
        )


class PlacementSection(ConfigModel):
    """How requests are given to workers."""

    mode: PlacementMode = PlacementMode.AUTO
    """auto: a pair or local prefill, whichever is predicted to be better; split: always a pair; aggregated: never."""
    look_ahead_s: Seconds = 0.25
    """Predicted seconds of work a prefill worker may have before it gets more."""
    itl_weight: Annotated[float, Field(ge=0.0, le=10.0)] = 0.25
    """Weight of the time that running sequences lose to a local prefill."""
    min_gain_s: Annotated[float, Field(ge=0.0, le=10.0)] = 0.005
    """By how many seconds local prefill must be better than the pair."""
    min_split_tokens: Annotated[int, Field(ge=0)] = 0
    """Shorter prompts are always computed where they decode."""

    affinity: Annotated[float, Field(ge=0.0, le=100.0)] = 1.0
    """What a second of work that a cached prefix saves is worth besides the second itself."""
    affinity_per_waiting: Annotated[float, Field(ge=0.0, le=100.0)] = 3.0
    """How much more it is worth for each waiting request per prefill worker."""
    max_affinity_s: Annotated[float, Field(ge=0.0, le=60.0)] = 0.25
    """How many seconds of predicted time to first token following a cached prefix may cost a request."""
    max_affinity_share: Annotated[float, Field(ge=0.0, le=10.0)] = 1.0
    """The same as a share of the lowest predicted time; both together are the bound."""
    tie_share: Annotated[float, Field(ge=0.0, le=1.0)] | None = 0.02
    """Costs within this share of the lowest count as equal, and chance decides; nothing = the workers' names do."""
    max_look: Annotated[int, Field(ge=0, le=256)] = 8
    """Requests looked at beyond the queue's head while it waits for the prefill worker it likes best; 0 = none."""
    max_overtakes: Annotated[int, Field(ge=0, le=65536)] = 1024
    """How many of them may pass any one head; none takes what it waits for, and once reached idle workers stay idle."""

    share: SharingMode = SharingMode.AUTO
    """Whether routers agree on prefill workers through Redis, if there is one; auto: where more than one serves."""

    def policy(self) -> PlacementPolicy:
        """Placement's own form of this section."""
        return PlacementPolicy(
            mode=self.mode,
            look_ahead_s=self.look_ahead_s,
            itl_weight=self.itl_weight,
            min_gain_s=self.min_gain_s,
            min_split_tokens=self.min_split_tokens,
            affinity=self.affinity,
            affinity_per_waiting=self.affinity_per_waiting,
            max_affinity_s=self.max_affinity_s,
            max_affinity_share=self.max_affinity_share,
            tie_share=self.tie_share,
        )

    def sharing(self) -> SharingPolicy:
        """The shared reservations' part of this section."""
        return SharingPolicy(mode=self.share)

    def overtaking(self) -> OvertakingPolicy:
        """The queue's part of this section."""
        return OvertakingPolicy(max_look=self.max_look, max_overtakes=self.max_overtakes)


class TimersSection(ConfigModel):
    """What silence means."""

    suspect_after_s: Seconds = 5.5
    """A worker silent for this long gets no new work; beats come each second, so it stood still for 4.5 s or more."""
    dead_after_s: Seconds = 10.0
    """A worker silent for this long has its requests taken away."""
    stuck_step_s: Seconds = 60.0
    """A worker whose forward step has been running for this long counts as silent, whatever its heartbeat says."""
    keep_alive_s: Seconds = 5.0
    """A stream that had nothing to say for this long sends a keep-alive."""
    gap_timeout_s: Seconds = 6.0
    """A missing token that has not come for this long fails the attempt."""
    drain_s: Seconds = 60.0
    """How long a stopping router waits for its requests."""

    @model_validator(mode="after")
    def _ordered(self) -> "TimersSection":
        if self.dead_after_s <= self.suspect_after_s:
            raise ValueError(
                f"dead_after_s ({self.dead_after_s}) must be above suspect_after_s ({self.suspect_after_s})"
            )
        return self

    def health(self) -> HealthTimers:
        """The health check's own form of this section."""
        return HealthTimers(
            suspect_after_s=self.suspect_after_s, dead_after_s=self.dead_after_s, stuck_step_s=self.stuck_step_s
        )


class RecoverySection(ConfigModel):
    """What failures mean."""

    pair_failures_to_open: Annotated[int, Field(ge=1, le=100)] = 2
    """Failed hand-overs in a row after which a prefill and a decode worker are not paired any more."""
    pair_probe_after_s: Seconds = 10.0
    """After how long one request tries such a pair again."""
    idempotency_ttl_s: Seconds = 600.0
    """For how long an answered request's idempotency key is remembered."""
    max_idempotency_keys: Annotated[int, Field(ge=16, le=1_000_000)] = 16384
    """Most keys of answered requests remembered; when full, the tenant with the most keys loses its oldest."""
    max_idempotency_keys_per_tenant: Annotated[int, Field(ge=16, le=1_000_000)] = 8192
    """Most keys of one tenant's answered requests remembered; its oldest are forgotten first."""

    def pairs(self) -> PairPolicy:
        """The circuit breakers' own form of this section."""
        return PairPolicy(failures_to_open=self.pair_failures_to_open, probe_after_s=self.pair_probe_after_s)


class StreamSection(ConfigModel):
    """How far a streaming caller may be behind its request."""

    max_buffered_tokens: Annotated[int, Field(ge=8, le=65536)] = 256
    """Tokens that may wait for the caller; over this the request ends with SLOW_CONSUMER."""
    max_buffered_bytes: Annotated[int, Field(ge=1024, le=64 * 1024 * 1024)] = 64 * 1024
    """Bytes of text and log-probabilities that may wait for the caller."""

    def bounds(self) -> StreamBounds:
        """The buffer's own form of this section."""
        return StreamBounds(max_tokens=self.max_buffered_tokens, max_bytes=self.max_buffered_bytes)


class RouterConfig(ConfigModel):
    """Everything a router needs to know besides the model folder and the directory of workers."""

    router_id: Annotated[str, Field(pattern=r"^[a-zA-Z0-9._-]{1,64}$")] = "router-0"
    """Name of this router, as workers and operators see it."""
    served_model: Annotated[str, Field(max_length=256)] = ""
    """Name under which the model is served; empty = the name of the model folder."""
    host: str = "127.0.0.1"
    """Address of the public port."""
    port: Port = 50051
    """Public gRPC port; 0 = any free one."""
    internal_host: str = "127.0.0.1"
    """Address of the internal port."""
    internal_port: Port = 0
    """Port where workers register and operators ask (RegistryService, ClusterService); 0 = any free one."""
    tls: TlsFiles | None = None
    """Certificate and key of the public port; with a CA it demands client certificates."""
    internal_tls: TlsFiles | None = None
    """Certificates of the internal port and of the streams to workers; mTLS when a CA is given."""
    keys: tuple[ApiKey, ...] = ()
    """Bearer keys; without any, only loopback is served, as tenant `local`."""
    insecure: bool = False
    """Serve plain text or without keys on addresses that are not loopback."""
    limits: LimitsSection = Field(default_factory=LimitsSection)
    """Bounds on requests."""
    queue: QueueSection = Field(default_factory=QueueSection)
    """Bounds on waiting."""
    admission: AdmissionSection = Field(default_factory=AdmissionSection)
    """Which requests are taken, and what tenants may ask for."""
    placement: PlacementSection = Field(default_factory=PlacementSection)
    """Choice of workers."""
    cache: CacheSection = Field(default_factory=CacheSection)
    """What is remembered of the workers' prefix caches."""
    timers: TimersSection = Field(default_factory=TimersSection)
    """Meaning of silence."""
    recovery: RecoverySection = Field(default_factory=RecoverySection)
    """Meaning of failures."""
    stream: StreamSection = Field(default_factory=StreamSection)
    """Bounds on slow callers."""
    tokenizer_threads: Annotated[int, Field(ge=1, le=64)] = 2
    """Threads that turn prompts into tokens."""
    metrics_host: str = "127.0.0.1"
    """Address of the metrics endpoint."""
    metrics_port: Port | None = None
    """Port of the Prometheus text endpoint; not set = none."""
    decisions: DecisionsSection = Field(default_factory=DecisionsSection)
    """What is remembered of why requests went where they went."""
    event_log: Path | None = None
    """Folder for this router's event log (see `tandem.core.event_log`); not set = none."""

    def dispatcher_policy(self) -> DispatcherPolicy:
        """The dispatcher's own form of this configuration."""
        return DispatcherPolicy(
            placement=self.placement.policy(),
            overtaking=self.placement.overtaking(),
            sharing=self.placement.sharing(),
            recovery=RecoveryPolicy(suspicion=SuspicionPolicy(doubt_s=self.timers.dead_after_s)),
            pairs=self.recovery.pairs(),
            admission=self.admission.policy(),
            max_queue_wait_s=self.queue.max_wait_s,
            no_worker_wait_s=self.queue.no_worker_wait_s,
            keep_alive_s=self.timers.keep_alive_s,
            gap_timeout_s=self.timers.gap_timeout_s,
        )
