"""One cluster from claim to clean end inside one command: prepare, start, publish, watch, drain, withdraw."""

import os
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tandem.cluster.config.model import ClusterConfig
from tandem.cluster.interrupts import Interrupts
from tandem.cluster.preparation import prepare
from tandem.cluster.progress import Progress
from tandem.cluster.run_state import RunState, RunStates, own_start_s
from tandem.cluster.runtime.choice import make_runtime
from tandem.cluster.supervisor import Supervisor
from tandem.core.environment import Environment


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveCluster:
    """A cluster that serves."""

    state: RunState
    supervisor: Supervisor
    interrupts: Interrupts
    started_in_s: float  # from the first step of this session until requests were served
    transport: str  # the KV transport that workers of one machine use

    async def watch(self) -> None:
        """Return when somebody wants the end; raises SetupError when the cluster ends by itself."""
        await self.supervisor.watch(self.interrupts.stop)


@asynccontextmanager
async def live_cluster(
    config: ClusterConfig, *, environment: Environment, progress: Progress
) -> AsyncIterator[LiveCluster]:
    """Run a cluster for the length of the block. Nothing is left afterwards, whatever happens inside.

    Raises SetupError for what a person can mend, Interrupted when a signal came before the cluster was up.
    """
    states = RunStates(environment.run_folder)
    with states.claimed(config.metadata.name):
        async with _live(config, states, environment, progress) as cluster:
            yield cluster


@asynccontextmanager
async def _live(
    config: ClusterConfig, states: RunStates, environment: Environment, progress: Progress
) -> AsyncIterator[LiveCluster]:
    began_s = time.monotonic()
    name = config.metadata.name
    log_folder = _fresh(states.log_folder(name))
    runtime = make_runtime(config, log_folder=log_folder)
    killers: list[Supervisor] = []

    def kill() -> None:
        for supervisor in killers:
            supervisor.kill()
        states.remove(name, os.getpid())

    def say_draining() -> None:
        progress.tell("draining; once more (Ctrl-C) ends everything at once")

    with Interrupts(on_first=say_draining, on_second=kill) as interrupts:
        model = await interrupts.unless_stopped(
            prepare(
                config.model,
                cache_folder=environment.cache_folder,
                log_folder=log_folder,
                progress=progress,
                num_threads=config.engine.num_threads,
                hub_offline=environment.hub_offline,
            )
        )
        supervisor = Supervisor(config, model=model, runtime=runtime, log_folder=log_folder, progress=progress)
        killers.append(supervisor)
        running = await interrupts.unless_stopped(supervisor.start())
        state = RunState(
            name=name,
            pid=os.getpid(),
            started_s=own_start_s(),
            runtime=config.runtime.kind,
            model=config.router.served_model or config.model.name or model.name,
            public_address=running.public_address,
            internal_address=running.internal_address,
            secured=config.router.tls is not None,
            internal_secured=(config.router.internal_tls or config.workers.tls) is not None,
            log_folder=log_folder,
            controlled=config.controller.enabled,
        )
        try:
            states.write(state)
            yield LiveCluster(
                state=state,
                supervisor=supervisor,
                interrupts=interrupts,
                started_in_s=time.monotonic() - began_s,
                transport=config.transfer.transports[0],
            )
        finally:
            phase = progress.begin("stop")
            await supervisor.stop(grace_s=config.runtime.stop_timeout_s)
            states.remove(name, os.getpid())
            phase.done("nothing is left running")


def _fresh(log_folder: Path) -> Path:
    """Return the folder, emptied of the logs of earlier clusters of this name."""
    shutil.rmtree(log_folder, ignore_errors=True)
    log_folder.mkdir(mode=0o700, parents=True)
    return log_folder
