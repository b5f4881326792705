"""The same cluster with its workers as Ray actors, in a Ray instance of its own."""

import os
import signal
import time
from collections.abc import Iterator

import psutil
import pytest

from tandem.cluster.run_state import RunState
from tandem.core.prepared_model import PreparedModel
from tests.fakes.command_line import CommandLine, write_config

NAME = "tiny-ray"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, tiny: PreparedModel) -> Iterator[tuple[CommandLine, RunState]]:
    """A cluster that is up for the tests of this file; afterwards nothing of it or of Ray may be left."""
    shell = CommandLine(tmp_path_factory.mktemp("ray") / "home")
    process = shell.start("up", "-f", str(write_config(shell.folder, tiny, name=NAME, runtime="ray")))
    try:
        yield shell, shell.wait_up(process, NAME, timeout_s=150.0)
        down = shell.run("down", "--name", NAME)
        assert down.status == 0, down.err
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
    assert shell.leftovers(within_s=15.0) == []


def test_workers_are_actors_of_a_ray_of_our_own(running: tuple[CommandLine, RunState]) -> None:
    shell, state = running
    assert state.runtime == "ray"
    workers = shell.workers(NAME)
    assert sorted(workers) == ["decode-0", "prefill-0"]
    for worker in workers.values():
        actor = psutil.Process(worker["info"]["pid"])
        assert any("raylet" in parent.name() for parent in actor.parents())
        ours = [parent.pid for parent in actor.parents()]
        assert state.pid in ours, "everything hangs below the command"


def test_ray_asks_for_a_token(running: tuple[CommandLine, RunState]) -> None:
    """Nobody else on this machine may hand code to it."""
    shell, _ = running
    actor = psutil.Process(shell.workers(NAME)["decode-0"]["info"]["pid"])
    environment = actor.environ()
    assert environment["RAY_AUTH_MODE"] == "token"
    token = environment["RAY_AUTH_TOKEN_PATH"]
    assert os.stat(token).st_mode & 0o077 == 0
    assert environment["OMP_NUM_THREADS"] == "1"


def test_requests_are_served_over_a_hand_over(running: tuple[CommandLine, RunState]) -> None:
    shell, _ = running
    done = shell.run("generate", "hello there", "--max-tokens", "8", "--temperature", "0", "--json")
    assert done.status == 0, done.err
    assert done.json()["workers"] == {"prefill_worker": "prefill-0", "decode_worker": "decode-0"}
    assert done.json()["timings"]["handover_ms"] > 0


def test_a_killed_actor_comes_back_with_a_new_epoch(running: tuple[CommandLine, RunState]) -> None:
    shell, _ = running
    before = shell.workers(NAME)["decode-0"]["info"]
    os.kill(before["pid"], signal.SIGKILL)
    end_s = time.monotonic() + 90
    while True:
        worker = shell.workers(NAME).get("decode-0")
        if worker and worker["info"]["epoch"] != before["epoch"] and worker["state"] == "ready":
            break
        assert time.monotonic() < end_s, f"still {worker}"
        time.sleep(0.3)
    assert worker["info"]["pid"] != before["pid"]
    done = shell.run("generate", "hello there", "--max-tokens", "8", "--temperature", "0", "--timeout", "60", "--json")
    assert done.status == 0, done.err
    assert done.json()["workers"]["decode_worker"] == "decode-0"


def test_a_foreign_ray_without_protection_is_refused(shell: CommandLine, tiny: PreparedModel) -> None:
    path = write_config(shell.folder, tiny, name="foreign", runtime="ray")
    path.write_text(
        path.read_text().replace("kind: ray", "kind: ray\n  address: 10.1.2.3:6379")
        + "registry: {redis_url: redis://10.1.2.3:6380/0}\n"
    )
    done = shell.run("up", "-f", str(path))
    assert done.status == 1
    assert "workers.tls is not set" in done.err
    assert "workers.insecure" in done.err
    assert shell.leftovers() == []


def test_a_ray_that_is_not_there(shell: CommandLine, tiny: PreparedModel) -> None:
    path = write_config(shell.folder, tiny, name="foreign", runtime="ray")
    text = path.read_text().replace("kind: ray", "kind: ray\n  address: auto") + "workers: {host: 127.0.0.1}\n"
    path.write_text(text)
    done = shell.run("up", "-f", str(path))
    assert done.status == 1
    assert "Ray can't be reached at auto" in done.err
    assert "Traceback" not in done.err
    assert shell.leftovers() == []


def test_a_killed_command_leaves_no_ray(shell: CommandLine, tiny: PreparedModel) -> None:
    process = shell.start("up", "-f", str(write_config(shell.folder, tiny, name="brief", runtime="ray")))
    shell.wait_up(process, "brief", timeout_s=150.0)
    token = psutil.Process(shell.workers("brief")["decode-0"]["info"]["pid"]).environ()["RAY_AUTH_TOKEN_PATH"]
    shell.end(process, number=signal.SIGKILL)
    assert shell.leftovers(within_s=60.0) == []
    assert not os.path.exists(os.path.dirname(token)), "sockets and token are gone too"
