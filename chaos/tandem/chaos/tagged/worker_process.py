"""A worker with the tagged engine as a subprocess: ``python -m tandem.chaos.tagged.worker_process``.

The same lifeline, configuration line, registration, gRPC service and KV services as the real worker's process. It
serves nothing but a tagged model folder, and nothing in ``cluster.yaml`` names it.
"""

import asyncio
import sys
import threading
from functools import partial

from tandem.chaos.tagged.building import TaggedBuilder
from tandem.chaos.tagged.model import read_shape
from tandem.chaos.tagged.race import install
from tandem.chaos.tagged.settings import TaggedWorkerConfig
from tandem.cluster.processes.failure import report_failure
from tandem.cluster.processes.lifeline import (
    read_config_line,
    report,
    stop_event_on_lifeline,
    stop_on_sigterm,
)
from tandem.cluster.programs.worker_program import ReadyWorker, WorkerProgram
from tandem.core.errors import TandemError
from tandem.core.log import configure_logging
from tandem.core.prepared_model import read_prepared_model


def _report_status(detail: str) -> None:
    report("status", detail=detail)


def _report_ready(
    loop: asyncio.AbstractEventLoop, stop: asyncio.Event, begun: threading.Event, worker: ReadyWorker
) -> None:
    stop_on_sigterm(loop, stop)  # there is work to drain from now on; a start, even a stuck one, ends at once
    begun.set()
    report("ready", address=worker.address, epoch=worker.info.epoch)


async def serve(config: TaggedWorkerConfig) -> None:
    """Serve until the lifeline ends or SIGTERM comes, then drain; either of them ends it at once before it is ready."""
    loop = asyncio.get_running_loop()
    begun = threading.Event()
    stop = stop_event_on_lifeline(loop, has_begun=begun.is_set)
    read_shape(read_prepared_model(config.model_folder))  # a real model is refused before anything is provoked
    if config.race.is_on and config.evidence_folder is not None:
        install(config.race, evidence_folder=config.evidence_folder, worker_id=config.worker_id)
    program = WorkerProgram(config, build=TaggedBuilder.of(config))
    await program.run(stop, on_status=_report_status, on_ready=partial(_report_ready, loop, stop, begun))


def main() -> None:
    """Run the program; a problem a person can solve is reported to the parent in one line."""
    config = TaggedWorkerConfig.model_validate_json(read_config_line())
    config = config.model_copy(update={"engine": config.engine.model_copy(update={"profile_budget_s": 0.0})})
    configure_logging(level=config.log_level, style=config.log_style, worker=config.worker_id)
    try:
        asyncio.run(serve(config))
    except TandemError as error:
        report_failure(error)
        sys.exit(1)


if __name__ == "__main__":
    main()
