"""Scale orders become workers, and their ends."""

import asyncio
from collections.abc import Sequence

import msgspec
import pytest

from tandem.cluster.config.model import ClusterConfig
from tandem.cluster.control.scale_follower import ScaleFollower
from tandem.cluster.plan import plan_added_worker, plan_workers
from tandem.cluster.programs.config import ControllerProgramConfig, RegistryTarget, WorkerProgramConfig
from tandem.cluster.runtime.base import OnStatus, WorkerProcess
from tandem.controller.live.scaling import SCALE_RECORD, ScaleOrders
from tandem.core.errors import EnvironmentProblem, SetupError
from tandem.core.records import MemoryRecords, overwrite
from tandem.core.types import Role
from tests.unit.cluster.test_plan import MODEL

CONFIG = ClusterConfig.model_validate({"model": {"source": "x"}, "workers": {"metrics_base_port": 9000}})
TARGET = RegistryTarget(kind="router")


class Runtime:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.added: list[WorkerProgramConfig] = []
        self.removed: list[str] = []
        self.broken = False

    async def start(self, workers: Sequence[WorkerProgramConfig], *, on_status: OnStatus, timeout_s: float) -> None:
        return

    async def add(self, worker: WorkerProgramConfig, *, timeout_s: float) -> None:
        self.added.append(worker)
        if self.broken:
            raise EnvironmentProblem("no room")

    async def remove(self, worker_id: str, *, grace_s: float) -> None:
        self.removed.append(worker_id)

    async def host_controller(self, program: ControllerProgramConfig) -> bool:
        return False

    async def wait(self) -> SetupError:
        return EnvironmentProblem("over")

    async def stop(self, *, grace_s: float) -> None:
        return

    def kill(self) -> None:
        return

    def processes(self) -> tuple[WorkerProcess, ...]:
        return ()


class Stage:
    """A follower over a store in memory."""

    def __init__(self) -> None:
        self.store, self.runtime = MemoryRecords(), Runtime()
        self.follower = ScaleFollower(
            self.store,
            self.runtime,
            plan=lambda name, role: plan_added_worker(CONFIG, MODEL, TARGET, worker_id=name, role=role),
            planned=tuple(plan_workers(CONFIG, MODEL, TARGET)),
            start_timeout_s=1.0,
            grace_s=1.0,
        )

    async def order(self, **orders: object) -> None:
        await overwrite(self.store, SCALE_RECORD, msgspec.json.encode(orders))
        await self.step()

    async def step(self) -> None:
        await self.follower.step()
        await asyncio.gather(*self.follower._busy.values())


async def test_the_plan_runs_until_something_is_ordered() -> None:
    stage = Stage()
    await stage.step()
    await stage.order(term=1)
    assert (stage.runtime.added, stage.runtime.removed) == ([], [])


async def test_what_is_ordered_is_started_once_and_ended_once() -> None:
    stage = Stage()
    await stage.order(term=1, added={"decode-1": "decode"}, removed=["prefill-0"])
    await stage.step()
    (added,) = stage.runtime.added
    assert (added.worker_id, added.role, added.metrics_port) == ("decode-1", Role.DECODE, None)
    assert stage.runtime.removed == ["prefill-0"]
    await stage.order(term=1)
    assert stage.runtime.removed == ["prefill-0", "decode-1"]
    assert [worker.worker_id for worker in stage.runtime.added] == ["decode-1", "prefill-0"]
    assert stage.runtime.added[-1].metrics_port == 9000, "back as it was planned"


async def test_orders_of_a_term_that_is_over_and_rubbish_change_nothing() -> None:
    stage = Stage()
    await stage.order(term=7, added={"decode-1": "decode"})
    await stage.order(term=6, removed=["decode-0", "prefill-0"])
    await overwrite(stage.store, SCALE_RECORD, b"{")
    await stage.step()
    stage.store._records.clear()
    await stage.step()
    assert stage.runtime.removed == []


async def test_a_worker_that_does_not_start_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tandem.cluster.control.scale_follower._FIRST_PAUSE_S", 0.0)
    stage = Stage()
    stage.runtime.broken = True
    await stage.order(term=1, added={"decode-1": "decode"})
    stage.runtime.broken = False
    await stage.step()
    await stage.step()
    assert len(stage.runtime.added) == 2
    assert ScaleOrders(term=1).encode()
