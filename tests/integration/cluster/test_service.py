"""One supervised child: ready, failing, dying, hanging, noisy."""

import asyncio
import os
import signal
import time
from typing import Any

import pytest

from tandem.cluster.processes.child import ChildProcess, ChildSpec
from tandem.cluster.processes.service import Service
from tandem.core.environment import child_environment
from tandem.core.errors import EnvironmentProblem, ModelError
from tests.fakes.cluster_stage import CHILD, Stage, gone


def spec(stage: Stage, name: str = "decode-0") -> ChildSpec:
    return ChildSpec(
        name=name,
        module=CHILD,
        config_json=f'{{"worker_id": "{name}", "model_folder": "{stage.folder}"}}',
        log_file=stage.logs / f"{name}.log",
        environment=child_environment(num_threads=1),
    )


async def test_a_child_is_ready_reports_and_ends_with_its_lifeline(stage: Stage) -> None:
    seen: list[dict[str, Any]] = []
    service = Service(spec(stage), on_event=seen.append)
    ready = await service.start(10.0)
    assert ready["public_address"] == "127.0.0.1:1"
    assert {"event": "status", "detail": "loading"} in seen
    await service.stop(grace_s=5.0)
    assert service.child is not None
    assert service.child.returncode == 0, "it ended by itself, nobody had to signal"
    await service.stop(grace_s=5.0)  # idempotent


async def test_a_failure_comes_up_as_the_same_error(stage: Stage) -> None:
    stage.plan(decode_0={"fail": "there is no such model"})
    service = Service(spec(stage))
    with pytest.raises(ModelError) as raised:
        await service.start(10.0)
    assert raised.value.problem == "decode-0 could not start: there is no such model"
    assert raised.value.remedy == "use another model"
    assert gone(stage.all_pids())


async def test_a_crash_shows_the_last_line_of_the_log(stage: Stage) -> None:
    stage.plan(decode_0={"die": 7})
    with pytest.raises(EnvironmentProblem, match=r"decode-0 ended early \(exit status 7\): ValueError: the last words"):
        await Service(spec(stage)).start(10.0)


async def test_noise_on_standard_output_is_no_status(stage: Stage) -> None:
    stage.plan(decode_0={"noise": True})
    seen: list[dict[str, Any]] = []
    service = Service(spec(stage), on_event=seen.append)
    await service.start(10.0)
    await service.stop(grace_s=5.0)
    assert [status["event"] for status in seen] == ["status"]


async def test_a_child_that_is_never_ready_is_ended(stage: Stage) -> None:
    stage.plan(decode_0={"silent": True})
    with pytest.raises(EnvironmentProblem, match=r"not ready after 1\.5 s: .+"):
        await Service(spec(stage)).start(1.5)
    assert len(stage.all_pids()) == 1
    assert gone(stage.all_pids())


async def test_a_child_that_ignores_its_lifeline_is_terminated(stage: Stage) -> None:
    stage.plan(decode_0={"ignore_end": True})
    service = Service(spec(stage))
    await service.start(10.0)
    began_s = time.monotonic()
    await service.stop(grace_s=0.3)
    assert 0.3 <= time.monotonic() - began_s < 4.0
    assert service.child is not None
    assert service.child.returncode == -signal.SIGTERM
    assert gone(stage.all_pids())


async def test_a_hanging_child_ends_itself_when_nobody_is_left(stage: Stage) -> None:
    """The parent is dead, so nobody signals: the child's own last resort must do it."""
    stage.plan(decode_0={"ignore_end": True, "last_resort_s": 0.3})
    service = Service(spec(stage))
    await service.start(10.0)
    assert service.child is not None
    await service.child.stop(grace_s=5.0)
    assert service.child.returncode == 1


async def test_waiting_tells_how_a_child_ended(stage: Stage) -> None:
    service = Service(spec(stage))
    await service.start(10.0)
    os.kill(stage.pids("decode-0")[0], signal.SIGKILL)
    error = await asyncio.wait_for(service.wait(), 5.0)
    assert "killed by signal 9" in error.problem
    await service.stop(grace_s=1.0)


async def test_a_cancelled_start_leaves_nothing(stage: Stage) -> None:
    stage.plan(decode_0={"delay_s": 30})
    starting = asyncio.create_task(Service(spec(stage)).start(60.0))
    while not stage.all_pids():
        await asyncio.sleep(0.02)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert gone(stage.all_pids())


async def test_a_log_that_cant_be_written_is_told(stage: Stage) -> None:
    stage.logs.write_text("a file where a folder should be", encoding="utf-8")
    with pytest.raises(EnvironmentProblem, match=r"decode-0\.log"):
        await ChildProcess.start(spec(stage))


async def test_what_a_killed_child_had_started_is_ended_too(stage: Stage) -> None:
    """A registry's server lives in the session of the process that started it."""
    script = """
import subprocess

def main():
    started = subprocess.Popen(['sleep', '600'])
    print(started.pid, flush=True)
    started.wait()
"""
    (stage.folder / "spawner.py").write_text(script, encoding="utf-8")
    environment = {**child_environment(num_threads=1), "PYTHONPATH": str(stage.folder)}
    child = await ChildProcess.start(
        ChildSpec(
            name="spawner",
            module="spawner",
            config_json="{}",
            log_file=stage.logs / "spawner.log",
            environment=environment,
        )
    )
    assert child._process.stdout is not None
    grandchild = int(await child._process.stdout.readline())
    os.kill(child.pid, signal.SIGKILL)
    await child.wait()
    assert gone([grandchild])
