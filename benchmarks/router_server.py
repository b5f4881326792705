"""The router under measurement, alone in its process: prints its address, serves until standard input closes.

Workers come as the registrations that ``tests.fakes.worker_process`` printed, on the command line.
"""

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tandem.core.log import configure_logging
from tandem.core.types import Role, WorkerInfo
from tandem.router.config import RouterConfig
from tandem.router.process import run_event_loop
from tandem.router.served_model import ServedModel
from tandem.router.server import Router
from tests.fakes.fake_worker import MODEL
from tests.fakes.static_directory import StaticDirectory
from tests.fakes.worker_process import info_from_json


async def serve(folder: Path, workers: Sequence[WorkerInfo]) -> None:
    """Serve ``folder`` over ``workers``."""
    router = Router(RouterConfig(port=0), ServedModel.load(folder, name=MODEL), StaticDirectory(workers))
    await router.start()
    fleet = router.dispatcher.fleet
    async with asyncio.timeout(30.0):
        while fleet.num_alive(Role.PREFILL) + fleet.num_alive(Role.DECODE) < len(workers):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    print(json.dumps({"address": router.address}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await router.stop(grace_s=0.0)


if __name__ == "__main__":
    configure_logging(level="error")
    run_event_loop(serve(Path(sys.argv[1]), [info_from_json(entry) for entry in json.loads(sys.argv[2])]))
