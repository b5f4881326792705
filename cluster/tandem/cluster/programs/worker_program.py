"""The worker program, the same under every runtime: load, profile, serve, announce, drain.

A subprocess runs it from `tandem.cluster.programs.worker_process`, a Ray actor from `tandem.cluster.runtime.ray_actor`.
"""

import asyncio
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import structlog

from tandem.cluster.programs.cache import cache_setup
from tandem.cluster.programs.config import WorkerProgramConfig
from tandem.cluster.programs.exposure import worker_exposure
from tandem.cluster.programs.roles import role_factory
from tandem.cluster.programs.tiers import attach_tiers
from tandem.cluster.registry.announcer import Registry, keep_announced
from tandem.cluster.registry.redis_registry import RedisRegistry
from tandem.cluster.registry.router_registry import RouterRegistry
from tandem.core.clock import Clock, MonotonicClock
from tandem.core.event_log import EventLog, open_event_log
from tandem.core.event_log.record import ProcessLife
from tandem.core.failpoints import arm_failpoints
from tandem.core.ids import Epoch, WorkerId, new_epoch
from tandem.core.latency import LatencyEstimator
from tandem.core.prepared_model import PreparedModel, read_prepared_model
from tandem.core.types import WorkerInfo
from tandem.engine.config import EngineConfig
from tandem.engine.kv.block_cache import CacheSetup
from tandem.engine.profile import profile_latency
from tandem.rpc.access import AccessControl
from tandem.rpc.addresses import join_address
from tandem.rpc.channels import INTERNAL_LIMITS
from tandem.rpc.metrics_endpoint import metrics_page
from tandem.rpc.server import RpcServer
from tandem.rpc.services.cache import worker_cache_service
from tandem.rpc.services.worker import WORKER_SERVICE, worker_service
from tandem.rpc.tls import TlsMaterial
from tandem.worker_host.built import BuiltEngine
from tandem.worker_host.host import WorkerHost
from tandem.worker_host.instruments import WorkerInstruments
from tandem.worker_host.service import WorkerServiceHandler

_log = structlog.get_logger(__name__)
_HAND_OVER_S = 2.0  # the engine thread's next step ends well before, unless it is stuck
_FAILURE_POLL_S = 0.2

OnStatus = Callable[[str], None]


class EngineBuilder(Protocol):
    """Makes the engine that the program serves: `tandem.worker_host.assembly.build_engine`, or a stand-in's."""

    def __call__(
        self, prepared: PreparedModel, config: EngineConfig, *, clock: Clock, cache: CacheSetup | None
    ) -> BuiltEngine:
        """Build it; takes seconds. Raises SetupError's kinds for a model or a machine that does not fit."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyWorker:
    """A worker that serves."""

    info: WorkerInfo
    address: str


class EngineThreadFailed(RuntimeError):
    """The engine thread ended with an error: the process must end and be started again."""


class AnnouncingFailed(RuntimeError):
    """The registry is not told of this worker any more: it is drained, and the process must be started again."""


class WorkerProgram:
    """One life of one worker. `run` returns after a drain; it raises when the engine thread or its announcing dies."""

    def __init__(self, config: WorkerProgramConfig, *, build: EngineBuilder) -> None:
        """``build`` makes the engine of a prepared model; it runs in a thread of its own."""
        self._config = config
        self._build = build
        self._clock = MonotonicClock()
        self._event_log: EventLog | None = None
        self._tls: TlsMaterial | None = config.tls.load() if config.tls else None

    async def run(self, stop: asyncio.Event, *, on_status: OnStatus, on_ready: Callable[[ReadyWorker], None]) -> None:
        """Serve until ``stop`` is set, then drain and end. Loading runs off the event loop."""
        arm_failpoints(self._config.worker_id, exposed_by=worker_exposure(self._config))
        with metrics_page(self._config.metrics_host, self._config.metrics_port) as meter:
            await self._run(WorkerInstruments(meter=meter, role=self._config.role), stop, on_status, on_ready)

    async def _run(
        self,
        instruments: WorkerInstruments,
        stop: asyncio.Event,
        on_status: OnStatus,
        on_ready: Callable[[ReadyWorker], None],
    ) -> None:
        config = self._config
        prepared = read_prepared_model(config.model_folder)
        on_status("loading the model")
        epoch = new_epoch()
        cache = cache_setup(config.cache, epoch)
        built = await asyncio.to_thread(self._build, prepared, config.engine, clock=self._clock, cache=cache)
        on_status("measuring its speed")
        profile = await asyncio.to_thread(profile_latency, built.runner, config.engine, clock=self._clock)
        estimator = LatencyEstimator(profile.coefficients)
        if built.engine.cache is not None:
            built.engine.cache.recompute_cost = partial(_recompute_s, estimator, config.engine.block_size)
        server = RpcServer(
            address=join_address(config.host, config.port),
            access=AccessControl(mutual_tls=config.tls is not None and config.tls.ca is not None),
            load_tls=config.tls.load if config.tls else None,
            insecure=config.insecure,
            limits=INTERNAL_LIMITS,
        )
        tiers = attach_tiers(
            built.engine,
            cache,
            layout_fingerprint=built.layout.fingerprint,
            registry=config.registry,
            estimator=estimator,
            clock=self._clock,
        )
        host = self._make_host(built, prepared, estimator, instruments, epoch)
        try:
            server.add(worker_service(WorkerServiceHandler(host)))
            cache_handler = host.cache_service()
            if cache_handler is not None:
                server.add(worker_cache_service(cache_handler))
            address = await server.start()
            host.set_address(config.advertise_address or address)
            host.start()
            await server.mark_serving(WORKER_SERVICE)
            await server.mark_serving("")
            on_ready(ReadyWorker(info=host.info, address=address))
            await self._serve(host, stop)
        finally:
            await server.stop(grace_s=1.0)
            await asyncio.to_thread(host.close)
            if tiers is not None and not await asyncio.to_thread(tiers.close):
                _log.error("cache_tiers_did_not_stop")
            if self._event_log is not None:
                await asyncio.to_thread(self._event_log.close)

    async def _serve(self, host: WorkerHost, stop: asyncio.Event) -> None:
        withdrawn = asyncio.Event()
        announcing = asyncio.create_task(keep_announced(self._registry(), lambda: host.info, withdrawn))
        try:
            while host.failure is None and not announcing.done():
                try:
                    await asyncio.wait_for(stop.wait(), _FAILURE_POLL_S)
                    break
                except TimeoutError:
                    continue
            failure, unknown = host.failure, _ended_early(announcing)
            withdrawn.set()
            if failure is not None:
                raise EngineThreadFailed(f"the engine thread is of no use any more: {failure}") from failure
            num_left = await host.drain(self._config.drain_s)
            num_lost = await host.hand_over(_HAND_OVER_S) if num_left else 0
            _log.info("drained", num_handed_over=num_left - num_lost, num_lost=num_lost)
            if unknown is not None:
                raise AnnouncingFailed(f"nobody can learn of this worker any more: {unknown!r}") from unknown
        finally:
            withdrawn.set()
            await asyncio.gather(announcing, return_exceptions=True)

    def _registry(self) -> Registry:
        target = self._config.registry
        if target.kind == "redis":
            return RedisRegistry(target.url, namespace=target.namespace)
        return RouterRegistry(target.address, tls=self._tls, insecure=self._config.insecure)

    def _make_host(
        self,
        built: BuiltEngine,
        prepared: PreparedModel,
        estimator: LatencyEstimator,
        instruments: WorkerInstruments,
        epoch: Epoch,
    ) -> WorkerHost:
        config, spec = self._config, built.engine.spec
        info = WorkerInfo(
            worker_id=WorkerId(config.worker_id),
            epoch=epoch,
            role=config.role,
            address="",
            model=prepared.name,
            model_digest=prepared.digest,
            layout_fingerprint=built.layout.fingerprint,
            block_size=config.engine.block_size,
            total_blocks=built.engine.num_blocks,
            max_context_tokens=spec.max_context_tokens,
            max_sequences=config.engine.max_sequences,
            pid=os.getpid(),
            host=socket.gethostname(),
        )
        if config.event_log is not None:
            life = ProcessLife(info.worker_id, info.epoch)
            self._event_log = open_event_log(config.event_log, life, clock=self._clock)
        return WorkerHost(
            info=info,
            engine=built.engine,
            make_role=role_factory(config, info, built.layout, instruments, self._clock, event_log=self._event_log),
            estimator=estimator,
            instruments=instruments,
            clock=self._clock,
            event_log=self._event_log,
        )


def _ended_early(announcing: asyncio.Task[None]) -> BaseException | None:
    """Return why it ended, if it did; nobody had asked it to."""
    return announcing.exception() if announcing.done() and not announcing.cancelled() else None


def _recompute_s(estimator: LatencyEstimator, block_size: int, num_tokens_before: int) -> float:
    """Predicted time to compute one block again that follows so many tokens, without the cost of a pass of its own."""
    model = estimator.model()
    whole = model.prefill_s(num_new_tokens=block_size, num_cached_tokens=num_tokens_before)
    return whole - model.prefill_s(num_new_tokens=0)
