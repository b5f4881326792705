"""From a `ClusterConfig` to the exact configuration of every process. Pure: no I/O."""

from pathlib import Path

from tandem.cluster.config.model import ClusterConfig
from tandem.cluster.programs.config import (
    ControllerProgramConfig,
    RegistryTarget,
    RouterProgramConfig,
    WorkerProgramConfig,
)
from tandem.core.prepared_model import PreparedModel
from tandem.core.types import Role
from tandem.prefix_cache.config import PrefixCacheProgram

_LEAVING_S = 5.0


def plan_router(
    config: ClusterConfig, model: PreparedModel, registry: RegistryTarget, *, cache: PrefixCacheProgram | None = None
) -> RouterProgramConfig:
    """Return the router process's configuration; ``cache`` is what `prepare_cache` made for the whole cluster."""
    served = config.router.served_model or config.model.name or model.name
    router = config.router.model_copy(
        update={
            "served_model": served,
            "internal_tls": config.router.internal_tls or config.workers.tls,
            "event_log": config.router.event_log or config.observability.event_log,
        }
    )
    return RouterProgramConfig(
        router=router,
        cache=cache or PrefixCacheProgram(settings=config.prefix_cache),
        model_folder=model.folder,
        registry=registry,
        log_level=config.observability.log_level,
        log_style=config.observability.log_style,
    )


def plan_workers(
    config: ClusterConfig, model: PreparedModel, registry: RegistryTarget, *, cache: PrefixCacheProgram | None = None
) -> list[WorkerProgramConfig]:
    """Return one configuration per worker, prefill workers first; ``cache`` as for `plan_router`."""
    pools = ((Role.PREFILL, config.pools.prefill), (Role.DECODE, config.pools.decode))
    slots = [(role, index) for role, pool in pools for index in range(pool.replicas)]
    base_port = config.workers.metrics_base_port
    return [
        _worker(config, model.folder, registry, role, f"{role.value}-{index}").model_copy(
            # One fixed port can't serve several workers of one host, so each has its own.
            update={
                "metrics_port": config.workers.metrics_port if base_port is None else base_port + number,
                "cache": cache or PrefixCacheProgram(settings=config.prefix_cache),
            }
        )
        for number, (role, index) in enumerate(slots)
    ]


def plan_added_worker(
    config: ClusterConfig,
    model: PreparedModel,
    registry: RegistryTarget,
    *,
    worker_id: str,
    role: Role,
    cache: PrefixCacheProgram | None = None,
) -> WorkerProgramConfig:
    """Return the configuration of a worker beyond the plan. Ports counted from a first one are counted out: then it has
    no metrics page.
    """
    return _worker(config, model.folder, registry, role, worker_id).model_copy(
        update={
            "metrics_port": config.workers.metrics_port,
            "cache": cache or PrefixCacheProgram(settings=config.prefix_cache),
        }
    )


def plan_controller(config: ClusterConfig, registry: RegistryTarget, *, routers: list[str]) -> ControllerProgramConfig:
    """Return the controller's configuration."""
    return ControllerProgramConfig(
        policy=config.controller.policy,
        registry=registry,
        routers=routers,
        ray_resource=config.controller.ray_resource,
        tls=config.controller.tls or config.workers.tls,
        insecure=config.workers.insecure,
        log_level=config.observability.log_level,
        log_style=config.observability.log_style,
    )


def _worker(
    config: ClusterConfig, model_folder: Path, registry: RegistryTarget, role: Role, worker_id: str
) -> WorkerProgramConfig:
    return WorkerProgramConfig(
        worker_id=worker_id,
        role=role,
        model_folder=model_folder,
        engine=config.engine.model_copy(update={"dtype": config.model.dtype}),
        host=config.workers.host,
        transports=list(config.transfer.transports),
        # What runs then is continued elsewhere, before whoever waits for the end loses patience.
        drain_s=max(0.0, config.runtime.stop_timeout_s - _LEAVING_S),
        registry=registry,
        tls=config.workers.tls,
        insecure=config.workers.insecure,
        metrics_host=config.workers.metrics_host,
        event_log=config.observability.event_log,
        log_level=config.observability.log_level,
        log_style=config.observability.log_style,
    )
