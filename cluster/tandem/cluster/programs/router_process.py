"""The router as a subprocess of ours. Never loads torch."""

import asyncio
import sys

from tandem.cluster.processes.failure import report_failure
from tandem.cluster.processes.lifeline import read_config_line, report, stop_event_on_lifeline
from tandem.cluster.programs.config import RegistryTarget, RouterProgramConfig
from tandem.cluster.programs.exposure import router_program_exposure
from tandem.cluster.programs.images import open_images
from tandem.cluster.programs.reservations import open_reserver
from tandem.cluster.registry.redis_directory import RedisDirectory
from tandem.cluster.registry.redis_records import RedisRecords
from tandem.cluster.registry.redis_registry import RedisRegistry
from tandem.core.clock import MonotonicClock
from tandem.core.errors import TandemError
from tandem.core.failpoints import arm_failpoints
from tandem.core.log import configure_logging
from tandem.core.types import Role
from tandem.router.directory import MemoryDirectory, WorkerDirectory
from tandem.router.process import run_event_loop
from tandem.router.served_model import ServedModel
from tandem.router.server import Router

_WORKERS_POLL_S = 0.05


async def serve(config: RouterProgramConfig) -> None:
    """Serve until the lifeline ends, then drain."""
    stop = stop_event_on_lifeline(asyncio.get_running_loop())
    arm_failpoints(config.router.router_id, exposed_by=router_program_exposure(config))
    registry = _redis_registry(config.registry)
    directory: WorkerDirectory = MemoryDirectory(MonotonicClock()) if registry is None else RedisDirectory(registry)
    model = await asyncio.to_thread(ServedModel.load, config.model_folder, name=config.router.served_model)
    target = config.registry
    records = None if registry is None else RedisRecords(target.url, namespace=target.namespace)
    clock = MonotonicClock()
    reserver, images = open_reserver(config, clock), open_images(config, clock)
    router = Router(
        config.router, model, directory, cache=config.cache, records=records, reserver=reserver, images=images
    )
    await router.start()
    report("ready", public_address=router.address, internal_address=router.internal_address)
    telling = asyncio.create_task(_tell_workers(router))
    try:
        await router.serve_until(stop)
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)
        if reserver is not None:
            await reserver.close()
        if registry is not None:
            await registry.close()
        if records is not None:
            await records.close()
        if images is not None:
            await images.close()


async def _tell_workers(router: Router) -> None:
    """Tell the parent how many workers this router can use, whenever that changes."""
    last: tuple[int, int] | None = None
    while True:
        fleet = router.dispatcher.fleet
        alive = (fleet.num_alive(Role.PREFILL), fleet.num_alive(Role.DECODE))
        if alive != last:
            last = alive
            report("workers", prefill=alive[0], decode=alive[1])
        await asyncio.sleep(_WORKERS_POLL_S)


def _redis_registry(target: RegistryTarget) -> RedisRegistry | None:
    return RedisRegistry(target.url, namespace=target.namespace) if target.kind == "redis" else None


def main() -> None:
    """Run the program; a problem a person can solve is reported to the parent in one line."""
    config = RouterProgramConfig.model_validate_json(read_config_line())
    configure_logging(level=config.log_level, style=config.log_style, worker=config.router.router_id)
    try:
        run_event_loop(serve(config))
    except TandemError as error:
        report_failure(error)
        sys.exit(1)


if __name__ == "__main__":
    main()
