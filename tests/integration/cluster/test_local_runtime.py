"""Workers as subprocesses: started together, started again when they die, ended together."""

import asyncio
import os
import signal

import pytest

from tandem.cluster.plan import plan_workers
from tandem.cluster.processes.child import ChildProcess
from tandem.cluster.programs.config import RegistryTarget, WorkerProgramConfig
from tandem.cluster.runtime.local import LocalRuntime
from tandem.core.errors import EnvironmentProblem, ModelError
from tests.fakes.cluster_stage import CHILD, Stage, fake_cluster, gone


def workers(stage: Stage, *, decode: int = 1) -> list[WorkerProgramConfig]:
    return plan_workers(fake_cluster(decode=decode), stage.model, RegistryTarget(kind="router"))


async def test_all_start_and_all_end(stage: Stage) -> None:
    runtime = LocalRuntime(log_folder=stage.logs, module=CHILD)
    heard: list[tuple[str, str]] = []
    await runtime.start(workers(stage, decode=2), on_status=lambda *what: heard.append(what), timeout_s=20.0)
    names = [process.worker_id for process in runtime.processes() if process.is_running]
    assert names == ["prefill-0", "decode-0", "decode-1"]
    assert ("decode-1", "loading") in heard
    await runtime.stop(grace_s=5.0)
    assert not any(process.is_running for process in runtime.processes())
    assert gone(stage.all_pids())


async def test_a_killed_worker_comes_back(stage: Stage) -> None:
    runtime = LocalRuntime(log_folder=stage.logs, module=CHILD)
    await runtime.start(workers(stage), on_status=lambda *_: None, timeout_s=20.0)
    first = stage.pids("decode-0")[0]
    os.kill(first, signal.SIGKILL)
    async with asyncio.timeout(20):
        while len(stage.pids("decode-0")) < 2:
            await asyncio.sleep(0.02)
    process = next(process for process in runtime.processes() if process.worker_id == "decode-0")
    assert process.num_restarts == 1
    assert process.pid == stage.pids("decode-0")[1] != first
    assert stage.pids("prefill-0") == [next(p.pid for p in runtime.processes() if p.worker_id == "prefill-0")]
    await runtime.stop(grace_s=5.0)
    assert gone(stage.all_pids())


async def test_a_worker_that_cant_start_again_is_tried_again(stage: Stage) -> None:
    stage.plan(decode_0={"die_after_s": 0.1, "lives": 1})
    runtime = LocalRuntime(log_folder=stage.logs, module=CHILD)
    await runtime.start(workers(stage), on_status=lambda *_: None, timeout_s=20.0)
    async with asyncio.timeout(20):
        while len(stage.pids("decode-0")) < 2:
            await asyncio.sleep(0.02)
    await runtime.stop(grace_s=5.0)
    assert gone(stage.all_pids())


async def test_one_bad_worker_fails_the_start_and_nothing_is_left(stage: Stage) -> None:
    stage.plan(decode_0={"fail": "too little memory"})
    runtime = LocalRuntime(log_folder=stage.logs, module=CHILD)
    with pytest.raises(ModelError, match="decode-0 could not start: too little memory"):
        await runtime.start(workers(stage), on_status=lambda *_: None, timeout_s=20.0)
    assert gone(stage.all_pids())


async def test_a_late_worker_fails_the_start(stage: Stage) -> None:
    stage.plan(prefill_0={"silent": True})
    runtime = LocalRuntime(log_folder=stage.logs, module=CHILD)
    with pytest.raises(EnvironmentProblem, match="prefill-0 was not ready after 2 s"):
        await runtime.start(workers(stage), on_status=lambda *_: None, timeout_s=2.0)
    assert gone(stage.all_pids())


async def test_a_stop_during_a_restart_leaves_nothing(stage: Stage) -> None:
    stage.plan(decode_0={"die_after_s": 0.05, "delay_s": 0.3})
    runtime = LocalRuntime(log_folder=stage.logs, module=CHILD)
    await runtime.start(workers(stage), on_status=lambda *_: None, timeout_s=20.0)
    async with asyncio.timeout(20):
        while len(stage.pids("decode-0")) < 2:
            await asyncio.sleep(0.02)
    await runtime.stop(grace_s=5.0)
    num_lives = len(stage.pids("decode-0"))
    await asyncio.sleep(0.5)
    assert len(stage.pids("decode-0")) == num_lives, "nobody is started after the stop"
    assert gone(stage.all_pids())


async def test_a_stop_just_when_a_restarted_worker_gets_ready(stage: Stage) -> None:
    """The cancellation and the result arrive together, in either order."""
    for turn in range(6):
        runtime = LocalRuntime(log_folder=stage.logs, module=CHILD)
        await runtime.start(workers(stage), on_status=lambda *_: None, timeout_s=20.0)
        slot = next(slot for slot in runtime._slots if slot.service.spec.name == "decode-0")
        first = slot.service.child
        assert first is not None
        os.kill(first.pid, signal.SIGKILL)
        async with asyncio.timeout(20):
            while slot.service.child is first or not _is_serving(stage, slot.service.child):
                await asyncio.sleep(0.003 * turn)
            await runtime.stop(grace_s=5.0)
    assert gone(stage.all_pids())


def _is_serving(stage: Stage, child: ChildProcess | None) -> bool:
    return child is not None and child.pid in stage.pids("decode-0")


async def test_kill_does_not_wait(stage: Stage) -> None:
    stage.plan(decode_0={"ignore_end": True})
    runtime = LocalRuntime(log_folder=stage.logs, module=CHILD)
    await runtime.start(workers(stage), on_status=lambda *_: None, timeout_s=20.0)
    runtime.kill()
    assert gone(stage.pids("decode-0"))
    await runtime.stop(grace_s=1.0)


async def test_a_worker_more_and_a_worker_less(stage: Stage) -> None:
    runtime = LocalRuntime(log_folder=stage.logs, module=CHILD)
    await runtime.start(workers(stage), on_status=lambda *_: None, timeout_s=20.0)
    (extra,) = [each for each in workers(stage, decode=2) if each.worker_id == "decode-1"]
    await runtime.add(extra, timeout_s=20.0)
    assert [process.worker_id for process in runtime.processes()] == ["prefill-0", "decode-0", "decode-1"]
    await runtime.remove("decode-0", grace_s=5.0)
    await runtime.remove("decode-7", grace_s=5.0)
    assert [process.worker_id for process in runtime.processes()] == ["prefill-0", "decode-1"]
    assert gone(stage.pids("decode-0"))
    await asyncio.sleep(0.5)
    assert len(stage.pids("decode-0")) == 1, "it is not started again"
    await runtime.stop(grace_s=5.0)
    assert gone(stage.all_pids())


async def test_a_worker_that_can_not_be_added_leaves_nothing(stage: Stage) -> None:
    stage.plan(decode_1={"fail": "too little memory"})
    runtime = LocalRuntime(log_folder=stage.logs, module=CHILD)
    await runtime.start(workers(stage), on_status=lambda *_: None, timeout_s=20.0)
    (extra,) = [each for each in workers(stage, decode=2) if each.worker_id == "decode-1"]
    with pytest.raises(ModelError, match="decode-1 could not start: too little memory"):
        await runtime.add(extra, timeout_s=20.0)
    assert [process.worker_id for process in runtime.processes()] == ["prefill-0", "decode-0"]
    await runtime.stop(grace_s=5.0)
    assert gone(stage.all_pids())
