"""A supervisor of fake programs and a real registry, to be killed: ``cluster_parent MODEL_FOLDER LOG_FOLDER``.

Prints ``up``, then the process ids of the registry process and of its server.
"""

import asyncio
import sys
from pathlib import Path

import psutil

from tandem.cluster.progress import SilentProgress
from tandem.cluster.runtime.local import LocalRuntime
from tandem.cluster.supervisor import Programs, Supervisor
from tests.fakes.cluster_stage import CHILD, Stage, fake_cluster


async def main() -> None:
    """Bring everything up and wait for the end."""
    stage = Stage.__new__(Stage)
    stage.folder, stage.logs = Path(sys.argv[1]), Path(sys.argv[2])
    cluster = Supervisor(
        fake_cluster(embedded=True),
        model=stage.model,
        runtime=LocalRuntime(log_folder=stage.logs, module=CHILD),
        log_folder=stage.logs,
        progress=SilentProgress(),
        programs=Programs(router=CHILD),
    )
    await cluster.start()
    sys.stdout.write("up\n")
    service = cluster._registry
    pids = [service.child.pid] if service is not None and service.child is not None else []
    servers = [child.pid for pid in pids for child in psutil.Process(pid).children()]
    sys.stdout.write(" ".join(map(str, [*pids, *servers])) + "\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
