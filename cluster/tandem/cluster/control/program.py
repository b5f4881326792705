"""The controller program, the same under every runtime: join the ports, run the controller, close."""

import asyncio
from collections.abc import Callable

from tandem.cluster.control.ports import GrpcRouters, GrpcWorkers, RouterWorkerList
from tandem.cluster.programs.config import ControllerProgramConfig, RegistryTarget
from tandem.cluster.programs.exposure import controller_exposure
from tandem.cluster.registry.redis_records import RedisRecords
from tandem.cluster.registry.redis_registry import RedisRegistry
from tandem.cluster.registry.router_records import RouterRecords
from tandem.controller.live.controller import Controller, OnRound
from tandem.controller.live.policies import Policies
from tandem.controller.live.ports import Ports, WorkerList
from tandem.core.clock import MonotonicClock
from tandem.core.errors import ConfigError
from tandem.core.failpoints import arm_failpoints
from tandem.core.records import RecordStore
from tandem.rpc.tls import TlsMaterial


async def run_controller(
    config: ControllerProgramConfig,
    stop: asyncio.Event,
    *,
    on_ready: Callable[[], None] = lambda: None,
    on_round: OnRound = lambda _: None,
) -> None:
    """Control the cluster until ``stop`` is set. Raises ConfigError for a policy file that is wrong at the start."""
    arm_failpoints(config.controller_id, exposed_by=controller_exposure(config))
    tls = config.tls.load() if config.tls else None
    store = open_records(config.registry, tls=tls, insecure=config.insecure)
    registry = _worker_list(config.registry, tls=tls, insecure=config.insecure)
    workers = GrpcWorkers(tls=tls, insecure=config.insecure)
    routers = GrpcRouters(config.routers, tls=tls, insecure=config.insecure)
    try:
        policies = Policies(store, config.policy)
        if await policies.current() is None and policies.problem:
            raise ConfigError(policies.problem)
        controller = Controller(
            controller_id=config.controller_id,
            ports=Ports(registry=registry, workers=workers, routers=routers),
            store=store,
            policies=policies,
            clock=MonotonicClock(),
            on_round=on_round,
            lease_s=config.lease_s,
        )
        on_ready()
        await controller.run(stop)
    finally:
        await workers.close()
        await routers.close()
        await registry.close()
        await store.close()


def open_records(target: RegistryTarget, *, tls: TlsMaterial | None, insecure: bool) -> RecordStore:
    """Open the cluster's shared memory."""
    if target.kind == "redis":
        return RedisRecords(target.url, namespace=target.namespace)
    return RouterRecords(target.address, tls=tls, insecure=insecure)


def _worker_list(target: RegistryTarget, *, tls: TlsMaterial | None, insecure: bool) -> WorkerList:
    if target.kind == "redis":
        return RedisRegistry(target.url, namespace=target.namespace)
    return RouterWorkerList(target.address, tls=tls, insecure=insecure)
