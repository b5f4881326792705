"""The router as a whole: both gRPC servers, the links, the clock's tick, start and graceful stop."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import structlog

from tandem.core import reasons
from tandem.core.clock import Clock, MonotonicClock
from tandem.core.errors import Unavailable
from tandem.core.event_log import EventLog, open_event_log
from tandem.core.event_log.record import ProcessLife
from tandem.core.ids import new_epoch
from tandem.core.latency import LatencyCoefficients
from tandem.core.messages import Beat, StepReport
from tandem.core.records import MemoryRecords, RecordStore
from tandem.core.types import Role, WorkerInfo
from tandem.prefix_cache.config import PrefixCacheProgram
from tandem.prefix_cache.remote.images import RemoteImages
from tandem.router.actions import WorkerKey
from tandem.router.admin import ClusterFront
from tandem.router.cache.desk import CacheDesk
from tandem.router.cache.follower import CacheFollower
from tandem.router.cache.images import IndexImages
from tandem.router.cache.names import PromptNamer
from tandem.router.cache.naming import PromptNaming
from tandem.router.cache.usage import CacheUsage
from tandem.router.cache.view import CacheView
from tandem.router.config import RouterConfig
from tandem.router.control import ControlFront
from tandem.router.decisions.desk import DecisionDesk
from tandem.router.decisions.watching import Watching
from tandem.router.directory import MemoryDirectory, WorkerDirectory
from tandem.router.dispatcher import Dispatcher
from tandem.router.fleet import Fleet
from tandem.router.idempotency import IdempotencyKeys
from tandem.router.inference import InferenceFront
from tandem.router.intake import Intake
from tandem.router.links import WorkerLinks
from tandem.router.metrics import MeasuringObserver
from tandem.router.queue import CentralQueue
from tandem.router.registry_service import RegistryFront
from tandem.router.served_model import ServedModel
from tandem.router.sharing import Reserver
from tandem.router.tracing import Tracing
from tandem.router.traffic import TrafficMeter
from tandem.router.worker_link import WorkerLink
from tandem.router.write_gate import WriteGate
from tandem.rpc.access import AccessControl
from tandem.rpc.addresses import join_address
from tandem.rpc.channels import INTERNAL_LIMITS, ServerLimits, open_channel
from tandem.rpc.metrics_endpoint import MetricsEndpoint
from tandem.rpc.server import RpcServer
from tandem.rpc.services.admin import cluster_service, registry_service
from tandem.rpc.services.cache import cache_admin_service
from tandem.rpc.services.control import control_service
from tandem.rpc.services.decisions import decision_service
from tandem.rpc.services.inference import INFERENCE_SERVICE, MODEL_SERVICE, inference_service, model_service
from tandem.rpc.stubs.worker import WorkerStub
from tandem.rpc.telemetry import show_cache_images, show_cache_index

_log = structlog.get_logger(__name__)

TICK_S = 0.02
PREFILL_POOL = "tandem.pool.prefill"
DECODE_POOL = "tandem.pool.decode"


class Router:
    """One router. Make it inside a running event loop; ``start``, then ``stop``."""

    def __init__(
        self,
        config: RouterConfig,
        model: ServedModel,
        directory: WorkerDirectory,
        *,
        clock: Clock | None = None,
        cache: PrefixCacheProgram | None = None,
        records: RecordStore | None = None,
        reserver: Reserver | None = None,
        images: RemoteImages | None = None,
    ) -> None:
        """``cache`` is what the cluster was told of its prefix cache; without its secret nothing is looked up.

        ``records`` is the cluster's shared memory; without one this router keeps it. Through ``reserver`` it agrees
        with other routers on prefill workers; from ``images`` of the index it starts, and keeps them. All of these are
        the caller's to close.
        """
        self.address = ""
        self.internal_address = ""
        self.metrics_port: int | None = None
        self._config = config
        self._directory = directory
        self._clock = clock or MonotonicClock()
        self._internal_tls = config.internal_tls.load() if config.internal_tls is not None else None
        self._tracing = Tracing()
        self._gate = WriteGate()
        program = cache or PrefixCacheProgram()
        usage = CacheUsage()
        self.cache = CacheView(PromptNamer(program), config.cache)
        self._cache_reading = self.cache.reading(self._clock.now_s())
        self._images = None if images is None else self._make_images(images)
        self._follower = CacheFollower(
            self.cache,
            clock=self._clock,
            tls=self._internal_tls,
            insecure=config.insecure,
            warm=None if self._images is None else self._images.loader.warm,
        )
        self._metrics = MetricsEndpoint()
        self._links = WorkerLinks(self._make_link)
        self._intake = Intake(
            model,
            limits=config.limits.request_limits(),
            default_max_tokens=config.limits.default_max_tokens,
            num_threads=config.tokenizer_threads,
            clock=self._clock,
            max_pin_ttl_s=program.settings.max_pin_ttl_s,
        )
        self._event_log = event_log = _open_log(config, self._clock)
        measuring = MeasuringObserver(self._metrics.meter, self._tracing, usage)
        self._watching = Watching(config, measuring, clock=self._clock, event_log=event_log)
        self.dispatcher = Dispatcher(
            fleet=Fleet(config.timers.health(), on_health=self._watching.judged),
            queue=CentralQueue(config.queue.bounds(), config.queue.tenant_weights),
            policy=config.dispatcher_policy(),
            clock=self._clock,
            send=self._links.send,
            observer=self._watching.observer,
            event_log=event_log,
            cache=self.cache,
            reserver=reserver,
        )
        show_cache_index(self._metrics.meter, lambda: self._cache_reading)
        if self._images is not None:
            show_cache_images(self._metrics.meter, self._images.counts.reading)
        self.cache_desk = CacheDesk(
            fleet=self.dispatcher.fleet,
            view=self.cache,
            follower=self._follower,
            usage=usage,
            clock=self._clock,
            tls=self._internal_tls,
            insecure=config.insecure,
        )
        self._meter = TrafficMeter(self._clock)
        self.control = ControlFront(
            router_id=config.router_id,
            meter=self._meter,
            dispatcher=self.dispatcher,
            records=records or MemoryRecords(),
            clock=self._clock,
        )
        self.cluster = ClusterFront(
            model=model.name,
            router_id=config.router_id,
            dispatcher=self.dispatcher,
            mode=config.placement.mode,
            clock=self._clock,
            drain=self._drain_worker,
            cache=self.cache_desk,
        )
        self.decisions = DecisionDesk(self._watching.log, samples=self._watching.samples, cluster=self.cluster)
        self._public = self._make_public()
        self._internal = self._make_internal()
        self._serving: dict[str, bool] = {}
        self._idle = asyncio.Event()  # set by the tick when draining and nothing is left
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Bind, serve, begin to look for workers. Raises ConfigError or EnvironmentProblem."""
        config = self._config
        if config.metrics_port is not None:
            self.metrics_port = self._metrics.start(config.metrics_host, config.metrics_port)
        self.internal_address = await self._internal.start()
        self.address = await self._public.start()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._watch()), loop.create_task(self._tick())]
        self._tasks.append(loop.create_task(self.cache_desk.repeat_flushes()))
        if self._intake.model.renderer is not None:
            self._tasks.append(loop.create_task(self._warm_templates()))
        if self._images is not None:
            self._tasks.append(loop.create_task(self._images.writer.run()))
        _log.info("router_started", address=self.address, internal_address=self.internal_address)

    async def serve_until(self, stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set, then stop gracefully."""
        await stop.wait()
        await self.stop(grace_s=self._config.timers.drain_s)

    async def stop(self, *, grace_s: float) -> None:
        """Take no new requests, let running ones end within ``grace_s``, end the rest, close everything."""
        self.dispatcher.draining = True
        await self._update_health()
        try:
            async with asyncio.timeout(grace_s):
                await self._idle.wait()
        except TimeoutError:
            _log.warning("drain_over", num_left=self.dispatcher.num_live)
        self.dispatcher.fail_all(Unavailable("this router is shutting down", reason=reasons.DRAINING))
        await asyncio.sleep(0)  # lets the callers' coroutines answer before their calls are cancelled
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(self._public.stop(grace_s=1.0), self._internal.stop(grace_s=1.0))
        await self._links.close()
        await self._follower.close()
        if self._images is not None:
            await self._images.writer.close()
        await self._intake.close()
        self._metrics.stop()
        await asyncio.to_thread(self._watching.close)
        if self._event_log is not None:
            await asyncio.to_thread(self._event_log.close)

    # --- LinkEvents ------------------------------------------------------------------------------------------------

    def on_profile(self, worker: WorkerKey, coefficients: LatencyCoefficients) -> None:
        """A worker told how fast it is."""
        record = self.dispatcher.fleet.get(worker)
        if record is not None:
            record.profile(coefficients)

    def on_attached(self, worker: WorkerKey) -> None:
        """A stream stands."""
        _log.info("worker_attached", worker_id=worker.worker_id)
        self.dispatcher.on_attached(worker)

    def on_report(self, worker: WorkerKey, report: StepReport) -> None:
        """An engine step."""
        self.dispatcher.on_report(worker, report)

    def on_beat(self, worker: WorkerKey, beat: Beat) -> None:
        """A sign of life."""
        self.dispatcher.on_beat(worker, beat)

    def on_lost(self, worker: WorkerKey) -> None:
        """A stream broke."""
        self.dispatcher.on_lost(worker)

    # --- inside ----------------------------------------------------------------------------------------------------

    def _make_public(self) -> RpcServer:
        config = self._config
        front = InferenceFront(
            intake=self._intake,
            dispatcher=self.dispatcher,
            bounds=config.stream.bounds(),
            clock=self._clock,
            tracing=self._tracing,
            gate=self._gate,
            decisions=self._watching.log,
            naming=PromptNaming(self.cache.namer, self.dispatcher.fleet, config.cache),
            cache=self.cache_desk,
            meter=self._meter,
            keys=IdempotencyKeys(
                ttl_s=config.recovery.idempotency_ttl_s,
                max_answered=config.recovery.max_idempotency_keys,
                max_per_tenant=config.recovery.max_idempotency_keys_per_tenant,
            ),
        )
        demands_certificates = config.tls is not None and config.tls.ca is not None
        server = RpcServer(
            address=join_address(config.host, config.port),
            access=AccessControl(keys=config.keys, mutual_tls=demands_certificates),
            load_tls=config.tls.load if config.tls is not None else None,
            insecure=config.insecure,
            limits=ServerLimits(
                max_receive_bytes=config.limits.max_request_bytes,
                max_concurrent_calls=config.limits.max_concurrent_calls,
            ),
            with_reflection=True,
        )
        server.add(inference_service(front))
        server.add(model_service(front))
        return server

    def _make_internal(self) -> RpcServer:
        config = self._config
        demands_certificates = config.internal_tls is not None and config.internal_tls.ca is not None
        server = RpcServer(
            address=join_address(config.internal_host, config.internal_port),
            access=AccessControl(
                keys=config.keys, mutual_tls=demands_certificates, trust_peers=not demands_certificates
            ),
            load_tls=config.internal_tls.load if config.internal_tls is not None else None,
            insecure=config.insecure,
            limits=INTERNAL_LIMITS,
        )
        server.add(cluster_service(self.cluster))
        server.add(cache_admin_service(self.cache_desk))
        server.add(control_service(self.control))
        server.add(decision_service(self.decisions))
        if isinstance(self._directory, MemoryDirectory):
            server.add(registry_service(RegistryFront(self._directory)))
        return server

    def _make_link(self, info: WorkerInfo) -> WorkerLink:
        return WorkerLink(
            info,
            router_id=self._config.router_id,
            events=self,
            tls=self._internal_tls,
            insecure=self._config.insecure,
        )

    def _make_images(self, images: RemoteImages) -> IndexImages:
        def info_of(worker: WorkerKey) -> WorkerInfo | None:
            record = self.dispatcher.fleet.get(worker)
            return None if record is None else record.info

        return IndexImages(images, self.cache, self._config.cache, info_of=info_of, clock=self._clock)

    async def _drain_worker(self, info: WorkerInfo, timeout_s: float) -> int:
        async with open_channel(info.address, tls=self._internal_tls, insecure=self._config.insecure) as channel:
            return await WorkerStub(channel).drain(drain_timeout_s=timeout_s, timeout_s=timeout_s + 5.0)

    async def _watch(self) -> None:
        while True:
            try:
                async for workers in self._directory.watch():
                    mine = [info for info in workers if info.model_digest == self._intake.model.digest]
                    for info in workers:
                        if info not in mine:
                            _log.warning("worker_serves_another_model", worker_id=info.worker_id)
                    change = self.dispatcher.fleet.apply(mine)
                    self._change_links(joined=change.joined, left=change.left)
                    self.dispatcher.on_directory(change)
            except Exception:  # noqa: BLE001  # a directory is a hint: serve on with the workers we know
                _log.warning("directory_failed", exc_info=True)
            await asyncio.sleep(1.0)

    async def _tick(self) -> None:
        while True:
            planned_s = self._clock.now_s() + TICK_S
            await asyncio.sleep(TICK_S)
            try:
                self._gate.observe(self._clock.now_s() - planned_s)
                for worker in self.dispatcher.step():
                    _log.warning("worker_dead", worker_id=worker.worker_id)
                    self._links.restart(worker)
                    self._follower.forget(worker)
                self._change_links(joined=(), left=self.dispatcher.fleet.forget_unlisted())
                self.cache.sweep(self._clock.now_s())
                self._cache_reading = self.cache.reading(self._clock.now_s())
                self._watching.step(self.dispatcher, self._meter, self._clock.now_s())
                await self._update_health()
                if self.dispatcher.draining and not self.dispatcher.num_live:
                    self._idle.set()
            except Exception:  # noqa: BLE001  # the loop must survive: without it no deadline would fire any more
                _log.error("tick_failed", exc_info=True)

    def _change_links(self, *, joined: Sequence[WorkerInfo], left: Sequence[WorkerKey]) -> None:
        self._links.change(joined=joined, left=left)
        if self.cache.namer.is_on:
            self._follower.change(joined=joined, left=left)

    async def _update_health(self) -> None:
        ready = not self.cluster.why_not_ready()
        fleet = self.dispatcher.fleet
        states = {
            "": ready,
            INFERENCE_SERVICE: ready,
            MODEL_SERVICE: not self.dispatcher.draining,
            PREFILL_POOL: fleet.num_alive(Role.PREFILL) > 0,
            DECODE_POOL: fleet.num_alive(Role.DECODE) > 0,
        }
        for name, serving in states.items():
            if self._serving.get(name) is not serving:
                self._serving[name] = serving
                await (self._public.mark_serving(name) if serving else self._public.mark_not_serving(name))

    async def _warm_templates(self) -> None:
        renderer = self._intake.model.renderer
        if renderer is not None:
            try:
                await renderer.start()
            except Exception:  # noqa: BLE001  # text prompts are served even if chats can't be
                _log.error("chat_template_broken", exc_info=True)


def _open_log(config: RouterConfig, clock: Clock) -> EventLog | None:
    if config.event_log is None:
        return None
    return open_event_log(config.event_log, ProcessLife(config.router_id, new_epoch()), clock=clock)


async def run_router(config: RouterConfig, model_folder: Path, directory: WorkerDirectory, stop: asyncio.Event) -> None:
    """Load the text side of a prepared model folder and serve it until ``stop`` is set; then stop gracefully.

    Raises ModelError, ConfigError or EnvironmentProblem when it can't start.
    """
    model = await asyncio.to_thread(ServedModel.load, model_folder, name=config.served_model)
    router = Router(config, model, directory)
    await router.start()
    await router.serve_until(stop)
