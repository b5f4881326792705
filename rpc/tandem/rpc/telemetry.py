"""Names of spans and metrics, and the instruments themselves: one table for all components.

Units are in the names, as Prometheus shows them. Requests are counted by outcome and never by tenant or request id;
worker ids appear on gauges only. Without an SDK set up by the composition root everything here does nothing.

Who writes what:

* the router writes every span of a request, phases of the workers included: P and D report how long a phase took
  (``PrefillDone``, ``HandoverDone``), so a phase appears once, on one clock, and a worker's step makes no span;
* the router measures requests (``RouterMetrics``), a worker its steps and hand-overs (``WorkerMetrics``): nothing is
  counted in both. A hand-over's time and bytes are D's alone; each side counts the failures it notices, by role.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from opentelemetry import metrics, trace
from opentelemetry.metrics import CallbackOptions, Counter, Histogram, Meter, Observation, UpDownCounter
from opentelemetry.trace import Tracer

from tandem.core.cache import TierStats
from tandem.core.ids import WorkerId
from tandem.core.kv_events import Tier
from tandem.core.types import WorkerLoad

SCOPE: Final = "tandem"

SPAN_REQUEST: Final = "tandem.request"
SPAN_QUEUE: Final = "tandem.queue"
SPAN_PREFILL: Final = "tandem.prefill"
SPAN_KV_TRANSFER: Final = "tandem.kv_transfer"
SPAN_DECODE: Final = "tandem.decode"

ATTRIBUTE_OUTCOME: Final = "tandem.outcome"
ATTRIBUTE_REASON: Final = "tandem.reason"
ATTRIBUTE_REQUEST_ID: Final = "tandem.request_id"  # on spans only
ATTRIBUTE_ATTEMPT: Final = "tandem.attempt"
ATTRIBUTE_WORKER: Final = "tandem.worker_id"  # on spans and gauges only
ATTRIBUTE_ROLE: Final = "tandem.role"
ATTRIBUTE_TRANSPORT: Final = "tandem.transport"
ATTRIBUTE_CAUSE: Final = "tandem.cause"
ATTRIBUTE_CLASS: Final = "tandem.class"
ATTRIBUTE_COMMAND: Final = "tandem.command"
ATTRIBUTE_TIER: Final = "tandem.tier"

# Bounds in seconds; the first token of a short prompt takes milliseconds, a long answer minutes.
_LATENCY_BOUNDS_S: Final = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0)
_TOKEN_BOUNDS_S: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
_BRIEF_BOUNDS_S: Final = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.05, 0.1)
_TOKENS_BOUNDS: Final = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144)


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterMetrics:
    """What a router measures."""

    request_duration_s: Histogram
    time_to_first_token_s: Histogram
    time_per_output_token_s: Histogram
    queue_wait_s: Histogram
    prompt_tokens: Histogram
    output_tokens: Histogram
    requests: Counter  # by outcome and reason
    attempts: Counter  # by reason, the first attempt of a request not counted
    failed_handovers: Counter  # by reason
    placements: Counter  # by cause
    admissions: Counter  # by class and cause
    reservations: Counter  # by outcome
    reservation_wait_s: Histogram
    cached_tokens: Counter
    uncached_tokens: Counter
    queued_requests: UpDownCounter
    running_requests: UpDownCounter


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerMetrics:
    """What a worker measures."""

    step_duration_s: Histogram  # by role
    prefill_tokens: Counter
    cached_tokens: Counter
    decode_tokens: Counter
    handover_duration_s: Histogram  # by transport
    handover_bytes: Counter  # by transport
    handover_skipped_bytes: Counter  # by transport
    handover_failures: Counter  # by role and reason
    attempt_failures: Counter  # by role and reason; refusals and failed hand-overs among them
    preemptions: Counter
    stale_commands: Counter  # by role and command


def tracer() -> Tracer:
    """Return the tracer of all Tandem spans."""
    return trace.get_tracer(SCOPE)


def meter() -> Meter:
    """Return the meter of all Tandem metrics."""
    return metrics.get_meter(SCOPE)


def router_metrics(source: Meter) -> RouterMetrics:
    """Make a router's instruments; once per process."""
    return RouterMetrics(
        request_duration_s=_seconds(source, "gen_ai.server.request.duration", "From arrival to the end of a request."),
        time_to_first_token_s=_seconds(source, "gen_ai.server.time_to_first_token", "From arrival to the first token."),
        time_per_output_token_s=source.create_histogram(
            "gen_ai.server.time_per_output_token",
            unit="s",
            description="Time after the first token, per further token.",
            explicit_bucket_boundaries_advisory=_TOKEN_BOUNDS_S,
        ),
        queue_wait_s=_seconds(source, "tandem.queue.wait", "From arrival in the queue to the placement."),
        prompt_tokens=_tokens(source, "tandem.request.prompt_tokens", "Prompt tokens per request."),
        output_tokens=_tokens(source, "tandem.request.output_tokens", "Output tokens per request."),
        requests=source.create_counter("tandem.requests", unit="{request}", description="Ended requests by outcome."),
        attempts=source.create_counter("tandem.attempts", unit="{attempt}", description="Attempts after the first."),
        failed_handovers=source.create_counter(
            "tandem.handovers.failed", unit="{handover}", description="Hand-overs that ended an attempt, by reason."
        ),
        placements=source.create_counter(
            "tandem.placements", unit="{attempt}", description="Attempts by why they are computed where they are."
        ),
        admissions=source.create_counter(
            "tandem.admissions", unit="{request}", description="Requests by why they were taken, refused or shed."
        ),
        reservations=source.create_counter(
            "tandem.reservations", unit="{request}", description="Asks for a shared reservation, by what came of them."
        ),
        reservation_wait_s=source.create_histogram(
            "tandem.reservation.wait",
            unit="s",
            description="From the ask for a shared reservation to its answer.",
            explicit_bucket_boundaries_advisory=_BRIEF_BOUNDS_S,
        ),
        cached_tokens=source.create_counter(
            "tandem.request.cached_tokens", unit="{token}", description="Prompt tokens that needed no computing."
        ),
        uncached_tokens=source.create_counter(
            "tandem.request.uncached_tokens", unit="{token}", description="Prompt tokens that were computed."
        ),
        queued_requests=source.create_up_down_counter(
            "tandem.queue.requests", unit="{request}", description="Requests that wait for a worker."
        ),
        running_requests=source.create_up_down_counter(
            "tandem.running.requests", unit="{request}", description="Requests being prefilled or decoded."
        ),
    )


def worker_metrics(source: Meter) -> WorkerMetrics:
    """Make a worker's instruments; once per process."""
    return WorkerMetrics(
        step_duration_s=_seconds(source, "tandem.engine.step.duration", "Wall time of one forward step."),
        prefill_tokens=source.create_counter(
            "tandem.engine.prefill_tokens",
            unit="{token}",
            description="Tokens computed in chunks, those of preempted sequences again.",
        ),
        cached_tokens=source.create_counter(
            "tandem.engine.cached_tokens", unit="{token}", description="Prompt tokens whose KV was already there."
        ),
        decode_tokens=source.create_counter(
            "tandem.engine.decode_tokens",
            unit="{token}",
            description="Tokens computed by decode rows.",
        ),
        handover_duration_s=_seconds(source, "tandem.kv.handover.duration", "From the grant to the verified seal."),
        handover_bytes=source.create_counter("tandem.kv.handover.bytes", unit="By", description="KV bytes received."),
        handover_skipped_bytes=source.create_counter(
            "tandem.kv.handover.skipped", unit="By", description="KV bytes not sent: the decode worker had them cached."
        ),
        handover_failures=source.create_counter(
            "tandem.kv.handover.failures", unit="{handover}", description="Hand-overs that failed, by reason."
        ),
        attempt_failures=source.create_counter(
            "tandem.worker.attempt_failures",
            unit="{attempt}",
            description="Attempts, or single sequences of them, that were refused or failed, by reason.",
        ),
        preemptions=source.create_counter(
            "tandem.engine.preemptions", unit="{sequence}", description="Sequences put back to be computed again."
        ),
        stale_commands=source.create_counter(
            "tandem.worker.stale_commands",
            unit="{command}",
            description="Grants and aborts for attempts that are not here (any more); they change nothing.",
        ),
    )


def show_worker_load(source: Meter, worker_id: WorkerId, read: Callable[[], WorkerLoad]) -> None:
    """Make the gauges of a worker's load; ``read`` is called when somebody looks, from the exporter's thread."""

    def gauge(name: str, unit: str, description: str, value: Callable[[WorkerLoad], int]) -> None:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            return [Observation(value(read()), {ATTRIBUTE_WORKER: worker_id})]

        source.create_observable_gauge(name, [observe], unit=unit, description=description)

    gauge("tandem.worker.running_sequences", "{sequence}", "Sequences in the batch.", lambda load: load.num_running)
    gauge("tandem.worker.waiting_sequences", "{sequence}", "Sequences that wait here.", lambda load: load.num_waiting)
    gauge("tandem.worker.kv_blocks", "{block}", "KV blocks in all.", lambda load: load.total_blocks)
    gauge("tandem.worker.kv_free_blocks", "{block}", "KV blocks that are free.", lambda load: load.free_blocks)
    gauge("tandem.worker.kv_receiving_blocks", "{block}", "KV blocks on their way.", lambda load: load.receiving_blocks)


def show_cache_tiers(source: Meter, read: Callable[[], tuple[TierStats, ...]]) -> None:
    """Make the instruments of a worker's cache by tier; ``read`` is called when somebody looks, from any thread."""

    def of_each(
        value: Callable[[TierStats], int], *, but: frozenset[Tier] = frozenset()
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        return lambda _: [
            Observation(value(stats), {ATTRIBUTE_TIER: stats.tier.value}) for stats in read() if stats.tier not in but
        ]

    def counter(name: str, unit: str, description: str, value: Callable[[TierStats], int]) -> None:
        # Nothing is demoted to the KV pool, nor promoted from it.
        callback = of_each(value, but=frozenset({Tier.DEVICE}))
        source.create_observable_counter(name, [callback], unit=unit, description=description)

    source.create_observable_gauge(
        "tandem.cache.tier.blocks", [of_each(lambda t: t.num_blocks)], unit="{block}", description="Cached blocks."
    )
    source.create_observable_gauge(
        "tandem.cache.tier.size",
        [of_each(lambda t: t.num_bytes, but=frozenset({Tier.DEVICE}))],
        unit="By",
        description="Memory that the blocks of a slower tier take.",
    )
    source.create_observable_counter(
        "tandem.cache.tier.hit_tokens",
        [of_each(lambda t: t.num_hit_tokens)],
        unit="{token}",
        description="Prompt tokens that needed no computing, by where their KV lay.",
    )
    counter(
        "tandem.cache.tier.promoted", "{block}", "Blocks that came back into the KV pool.", lambda t: t.num_promoted
    )
    counter("tandem.cache.tier.demoted", "{block}", "Blocks that came in from the tier above.", lambda t: t.num_demoted)
    counter(
        "tandem.cache.tier.rejected", "{block}", "Values that were not what they should be.", lambda t: t.num_rejected
    )
    counter("tandem.cache.tier.skipped", "{block}", "Blocks that were forgotten, not kept.", lambda t: t.num_skipped)


@dataclass(frozen=True, slots=True)
class CacheReading:
    """A router's picture of the caches at one moment. ``stale_s``: age of what is known of each worker's."""

    num_blocks: int
    num_gaps: int
    num_snapshots: int
    stale_s: Mapping[WorkerId, float]


def show_cache_index(source: Meter, read: Callable[[], CacheReading]) -> None:
    """Make the gauges of a router's index; ``read`` is called when somebody looks, from the exporter's thread."""

    def of_all(value: Callable[[CacheReading], int]) -> Callable[[CallbackOptions], Iterable[Observation]]:
        return lambda _: [Observation(value(read()))]

    def stale(_: CallbackOptions) -> Iterable[Observation]:
        return [Observation(age_s, {ATTRIBUTE_WORKER: worker}) for worker, age_s in read().stale_s.items()]

    source.create_observable_gauge(
        "tandem.cache.index.blocks", [of_all(lambda r: r.num_blocks)], unit="{block}", description="Names in the index."
    )
    source.create_observable_gauge(
        "tandem.cache.index.staleness", [stale], unit="s", description="Age of what is known of a worker's cache."
    )
    source.create_observable_gauge(
        "tandem.cache.index.gaps",
        [of_all(lambda r: r.num_gaps)],
        unit="{gap}",
        description="Times that events of a living worker were missing.",
    )
    source.create_observable_gauge(
        "tandem.cache.index.snapshots",
        [of_all(lambda r: r.num_snapshots)],
        unit="{snapshot}",
        description="Snapshots taken of the living workers' caches.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageReading:
    """What became of a router's images of its index, since its start. ``refused``: by reason."""

    num_written: int
    num_failed: int
    num_read: int
    num_missed: int
    num_blocks_warmed: int
    refused: Mapping[str, int]


def show_cache_images(source: Meter, read: Callable[[], ImageReading]) -> None:
    """Make the counters of a router's images; ``read`` is called when somebody looks, from the exporter's thread."""

    def counter(name: str, unit: str, description: str, value: Callable[[ImageReading], int]) -> None:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            return [Observation(value(read()))]

        source.create_observable_counter(name, [observe], unit=unit, description=description)

    def refused(_: CallbackOptions) -> Iterable[Observation]:
        return [Observation(count, {ATTRIBUTE_REASON: reason}) for reason, count in read().refused.items()]

    name = "tandem.cache.index.images."
    counter(name + "written", "{image}", "Images of workers' caches written to Redis.", lambda r: r.num_written)
    counter(name + "failed", "{image}", "Images that were begun and could not be written.", lambda r: r.num_failed)
    counter(name + "read", "{image}", "Workers whose image was taken at a start.", lambda r: r.num_read)
    counter(name + "missed", "{worker}", "Workers that were asked for everything.", lambda r: r.num_missed)
    source.create_observable_counter(
        name + "refused", [refused], unit="{image}", description="Images that were not what they should be, by reason."
    )
    counter("tandem.cache.index.warmed", "{block}", "Names that came from images.", lambda r: r.num_blocks_warmed)


def _seconds(source: Meter, name: str, description: str) -> Histogram:
    return source.create_histogram(
        name, unit="s", description=description, explicit_bucket_boundaries_advisory=_LATENCY_BOUNDS_S
    )


def _tokens(source: Meter, name: str, description: str) -> Histogram:
    return source.create_histogram(
        name, unit="{token}", description=description, explicit_bucket_boundaries_advisory=_TOKENS_BOUNDS
    )
