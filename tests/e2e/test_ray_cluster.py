"""The same cluster with its workers as Ray actors, in a Ray instance of its own."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from tandem.cluster.run_state import RunState
from tandem.core.prepared_model import PreparedModel
from tests.fakes.command_line import CommandLine, write_config
from tests.fakes.reference_traffic import ReferenceTraffic

NAME = "tiny-ray"
POLICY = """
metadata: {{name: fixed}}
spec:
  strategy: Fixed
  interval: 500ms
  budget: {{min: 3, max: 3}}
  damping: {{dwell: 500ms, reverseDwell: 500ms, cooldown: 1s}}
  pools:
    prefill: {{maxReplicas: 2, replicas: {prefill}}}
    decode: {{maxReplicas: 2, replicas: {decode}, behavior: {{scaleUp: {{stabilizationWindowSeconds: 0}}}}}}
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, tiny: PreparedModel) -> Iterator[tuple[CommandLine, RunState]]:
    """A cluster that is up for the tests of this file; afterwards nothing of it or of Ray may be left."""
    shell = CommandLine(tmp_path_factory.mktemp("ray") / "home")
    path = write_config(shell.folder, tiny, name=NAME, runtime="ray")
    # It waits until a test gives it a policy, and runs where the resource is, which a Ray of our own offers.
    path.write_text(path.read_text() + "controller: {enabled: true, ray_resource: tandem_router}\n")
    process = shell.start("up", "-f", str(path))
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


def until(is_so: Callable[[], bool], what: str, *, timeout_s: float = 60.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < end_s, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.3)


def apply(shell: CommandLine, *, prefill: int, decode: int) -> None:
    file = shell.folder / "policy.yaml"
    file.write_text(POLICY.format(prefill=prefill, decode=decode))
    done = shell.run("policy", "apply", "-f", str(file), "--name", NAME)
    assert done.status == 0, done.err


def split(shell: CommandLine) -> list[str]:
    """The roles of the workers that serve."""
    return sorted(w["info"]["role"] for w in shell.workers(NAME).values() if w["state"] == "ready")


def last_round(shell: CommandLine) -> dict[str, Any]:
    """What the controller said last, as `tandem status` shows it."""
    status = shell.run("status", "--json", "--name", NAME)
    assert status.status == 0, status.err
    told: dict[str, Any] = status.json()["controller"] or {"detail": {"term": 0}}
    return told


def controller_pid(state: RunState) -> int:
    """The one controller's process, among those below the command; Ray names a process after its actor."""
    below = psutil.Process(state.pid).children(recursive=True)
    pids = [process.pid for process in below if any("ray::ControllerActor" in word for word in process.cmdline())]
    assert len(pids) == 1
    return pids[0]


def test_the_controller_is_an_actor_that_outlives_itself(
    running: tuple[CommandLine, RunState], tiny: PreparedModel
) -> None:
    """A worker more, a switch in place, its own death in the middle of the next: no request is lost or wrong."""
    shell, state = running
    with ReferenceTraffic(state.public_address, tiny) as traffic:
        apply(shell, prefill=1, decode=2)
        until(lambda: split(shell) == ["decode", "decode", "prefill"], "a worker in a placement group of its own")
        lives = {name: w["info"]["epoch"] for name, w in shell.workers(NAME).items()}
        first = last_round(shell)["detail"]

        num_before = traffic.num_right
        apply(shell, prefill=2, decode=1)
        until(lambda: split(shell) == ["decode", "prefill", "prefill"], "a switch in place")
        until(lambda: traffic.num_right > num_before + 10, "answers by the switched worker's side")

        pid = controller_pid(state)
        os.kill(pid, signal.SIGKILL)
        until(lambda: last_round(shell)["detail"]["term"] > first["term"], "Ray starts it again, with a higher term")
        then = last_round(shell)["detail"]
        assert (then["wished_prefill"], then["wished_decode"]) == (2, 1), "what was applied is not forgotten"
        assert controller_pid(state) != pid
        words = shell.run("status", "--name", NAME).out
        assert "sees 2:1, wants 2:1" in words
        assert f"policy fixed, term {then['term']}" in words

        apply(shell, prefill=1, decode=2)
        until(lambda: split(shell) == ["decode", "decode", "prefill"], "the next life's switch")
        assert {name: w["info"]["epoch"] for name, w in shell.workers(NAME).items()} == lives, "nobody was restarted"
    assert traffic.wrong == []
    assert traffic.num_right > 30


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
    """At an address of its own: `auto` would find whatever Ray somebody else runs on this machine."""
    path = write_config(shell.folder, tiny, name="foreign", runtime="ray")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # taken, so that no other comes to listen there, and never listened at
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        text = path.read_text().replace("kind: ray", f"kind: ray\n  address: {address}")
        path.write_text(text + "workers: {host: 127.0.0.1}\n")
        done = shell.run("up", "-f", str(path))
    assert done.status == 1
    assert f"Ray can't be reached at {address}" in done.err
    assert "Traceback" not in done.err
    assert shell.leftovers() == []


def test_a_killed_command_leaves_no_ray(shell: CommandLine, tiny: PreparedModel) -> None:
    process = shell.start("up", "-f", str(write_config(shell.folder, tiny, name="brief", runtime="ray")))
    shell.wait_up(process, "brief", timeout_s=150.0)
    token = psutil.Process(shell.workers("brief")["decode-0"]["info"]["pid"]).environ()["RAY_AUTH_TOKEN_PATH"]
    shell.end(process, number=signal.SIGKILL)
    assert shell.leftovers(within_s=60.0) == []
    assert not os.path.exists(os.path.dirname(token)), "sockets and token are gone too"
