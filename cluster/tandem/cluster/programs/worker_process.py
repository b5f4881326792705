"""A worker as a subprocess of ours."""

import asyncio
import sys
import threading
from functools import partial

from tandem.cluster.processes.failure import report_failure
from tandem.cluster.processes.lifeline import (
    read_config_line,
    report,
    stop_event_on_lifeline,
    stop_on_sigterm,
)
from tandem.cluster.programs.config import WorkerProgramConfig
from tandem.cluster.programs.worker_program import ReadyWorker, WorkerProgram
from tandem.core.errors import TandemError
from tandem.core.log import configure_logging
from tandem.worker_host.assembly import build_engine

_LAST_RESORT_S = 30.0  # after the drain: to hand streams over and to close


def _report_status(detail: str) -> None:
    report("status", detail=detail)


def _report_ready(
    loop: asyncio.AbstractEventLoop, stop: asyncio.Event, begun: threading.Event, worker: ReadyWorker
) -> None:
    stop_on_sigterm(loop, stop)  # there is work to drain from now on; a start, even a stuck one, ends at once
    begun.set()
    report("ready", address=worker.address, epoch=worker.info.epoch)


async def serve(config: WorkerProgramConfig) -> None:
    """Serve until the lifeline ends or SIGTERM comes, then drain; either of them ends it at once before it is ready."""
    loop = asyncio.get_running_loop()
    begun = threading.Event()
    stop = stop_event_on_lifeline(loop, last_resort_s=config.drain_s + _LAST_RESORT_S, has_begun=begun.is_set)
    program = WorkerProgram(config, build=build_engine)
    await program.run(stop, on_status=_report_status, on_ready=partial(_report_ready, loop, stop, begun))


def main() -> None:
    """Run the program; a problem a person can solve is reported to the parent in one line."""
    config = WorkerProgramConfig.model_validate_json(read_config_line())
    configure_logging(level=config.log_level, style=config.log_style, worker=config.worker_id)
    try:
        asyncio.run(serve(config))
    except TandemError as error:
        report_failure(error)
        sys.exit(1)


if __name__ == "__main__":
    main()
