"""A session from claim to end, over fake programs: what is published, what stays, what a signal does."""

import asyncio
import functools
import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tandem.cluster import session
from tandem.cluster.config.model import ClusterConfig, ModelSection, RuntimeSection
from tandem.cluster.interrupts import Interrupted
from tandem.cluster.plan import plan_workers
from tandem.cluster.preparation import prepare
from tandem.cluster.programs.config import RegistryTarget, WorkerProgramConfig
from tandem.cluster.progress import SilentProgress
from tandem.cluster.run_state import RunStates
from tandem.cluster.runtime.base import WorkerRuntime
from tandem.cluster.runtime.local import LocalRuntime
from tandem.cluster.runtime.ray_runtime import RayRuntime
from tandem.cluster.session import live_cluster
from tandem.cluster.supervisor import Programs, Supervisor
from tandem.core.environment import Environment
from tandem.core.errors import ConfigError, EnvironmentProblem, ModelError
from tests.fakes.cluster_stage import CHILD, Stage, fake_cluster, gone


@pytest.fixture
def world(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    """An environment in which sessions start fake programs."""

    async def prepared(*_: object, **__: object) -> object:
        return stage.model

    def runtime(config: ClusterConfig, *, log_folder: Path) -> WorkerRuntime:
        return LocalRuntime(log_folder=log_folder, module=CHILD)

    monkeypatch.setattr(session, "prepare", prepared)
    monkeypatch.setattr(session, "make_runtime", runtime)
    monkeypatch.setattr(
        session, "Supervisor", functools.partial(Supervisor, programs=Programs(router=CHILD, registry=CHILD))
    )
    return Environment(
        cache_folder=tmp_path / "cache",
        run_folder=tmp_path / "run",
        no_color=True,
        hub_offline=True,
        test_failpoints=None,
    )


async def test_published_while_it_is_up(stage: Stage, world: Environment) -> None:
    states = RunStates(world.run_folder)
    async with live_cluster(fake_cluster(), environment=world, progress=SilentProgress()) as cluster:
        assert states.pick(None) == cluster.state
        assert cluster.state.pid == os.getpid()
        assert cluster.state.model == "fake"
        assert not cluster.state.secured
        assert cluster.state.log_folder.is_dir()
        assert cluster.started_in_s > 0
    assert states.running() == ()
    assert gone(stage.all_pids())


async def test_an_error_inside_ends_everything(stage: Stage, world: Environment) -> None:
    with pytest.raises(ZeroDivisionError):
        async with live_cluster(fake_cluster(), environment=world, progress=SilentProgress()):
            raise ZeroDivisionError
    assert RunStates(world.run_folder).running() == ()
    assert gone(stage.all_pids())


async def test_a_start_that_fails_publishes_nothing(stage: Stage, world: Environment) -> None:
    stage.plan(decode_0={"fail": "no"})
    with pytest.raises(ModelError):
        async with live_cluster(fake_cluster(), environment=world, progress=SilentProgress()):
            raise AssertionError("never up")
    assert RunStates(world.run_folder).running() == ()
    assert gone(stage.all_pids())


async def test_one_name_one_cluster(world: Environment) -> None:
    async with live_cluster(fake_cluster(), environment=world, progress=SilentProgress()):
        with pytest.raises(EnvironmentProblem, match="runs already"):
            async with live_cluster(fake_cluster(), environment=world, progress=SilentProgress()):
                raise AssertionError("a second one of that name")


async def test_logs_begin_anew(stage: Stage, world: Environment) -> None:
    old = RunStates(world.run_folder).log_folder("tandem")
    old.mkdir(parents=True)
    (old / "prefill-9.log").write_text("of yesterday")
    async with live_cluster(fake_cluster(), environment=world, progress=SilentProgress()) as cluster:
        assert {path.name for path in cluster.state.log_folder.iterdir()} == {
            "router.log",
            "prefill-0.log",
            "decode-0.log",
        }


async def test_a_signal_during_the_start(stage: Stage, world: Environment) -> None:
    stage.plan(decode_0={"delay_s": 60})
    asyncio.get_running_loop().call_later(0.7, os.kill, os.getpid(), signal.SIGTERM)
    with pytest.raises(Interrupted):
        async with live_cluster(fake_cluster(), environment=world, progress=SilentProgress()):
            raise AssertionError("never up")
    assert gone(stage.all_pids())


async def test_a_signal_while_it_is_up_ends_the_watch(stage: Stage, world: Environment) -> None:
    async with live_cluster(fake_cluster(), environment=world, progress=SilentProgress()) as cluster:
        asyncio.get_running_loop().call_later(0.1, os.kill, os.getpid(), signal.SIGINT)
        async with asyncio.timeout(5):
            await cluster.watch()
    assert gone(stage.all_pids())


# --- preparing the model ------------------------------------------------------------------------------------------


async def prepared_from(source: str, tmp_path: Path) -> Any:
    return await prepare(
        ModelSection(source=source),
        cache_folder=tmp_path / "cache",
        log_folder=tmp_path / "logs",
        progress=SilentProgress(),
        num_threads=1,
        hub_offline=True,
    )


async def test_a_source_that_names_nothing_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no model at"):
        await prepared_from("/nowhere/at/all", tmp_path)
    assert not (tmp_path / "logs").exists(), "no process was started for that"


async def test_a_model_that_cant_be_converted_is_told_in_the_converters_words(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ModelError, match="could not start") as raised:
        await prepared_from(str(tmp_path / "model"), tmp_path)
    assert raised.value.remedy


# --- Ray's driver, seen from the supervisor -----------------------------------------------------------------------


def ray_workers(stage: Stage) -> Sequence[WorkerProgramConfig]:
    return plan_workers(fake_cluster(), stage.model, RegistryTarget(kind="router"))


async def test_the_driver_is_a_child_like_any_other(stage: Stage) -> None:
    runtime = RayRuntime(fake_cluster(), log_folder=stage.folder, module="tests.fakes.ray_child")
    heard: list[tuple[str, str]] = []
    await runtime.start(ray_workers(stage), on_status=lambda *what: heard.append(what), timeout_s=20.0)
    assert ("decode-0", "ready") in heard
    found = {process.worker_id: process for process in runtime.processes()}
    assert found["decode-0"].pid == 1234
    assert found["decode-0"].is_running
    facts = json.loads((stage.folder / "ray.json").read_text())
    assert facts["mode"] == "token"
    assert facts["token_mode"] == "0o600"
    assert len(facts["token"]) == 64
    temp_folder = facts["temp_folder"]
    assert _exists(temp_folder)
    waiting = asyncio.create_task(runtime.wait())
    await runtime.stop(grace_s=5.0)
    assert (await waiting).problem.startswith("ray ended early")
    assert not _exists(temp_folder)


async def test_a_foreign_ray_is_not_touched_without_protection(stage: Stage) -> None:
    config = fake_cluster().model_copy(update={"runtime": RuntimeSection(kind="ray", address="auto")})
    runtime = RayRuntime(config, log_folder=stage.folder, module="tests.fakes.ray_child")
    with pytest.raises(ConfigError):
        await runtime.start(ray_workers(stage), on_status=lambda *_: None, timeout_s=5.0)
    assert runtime.processes() == ()
    await runtime.stop(grace_s=1.0)


def _exists(path: str) -> bool:
    return Path(path).exists()
