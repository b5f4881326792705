"""A cluster of plain processes with a tiny model, driven through the command line only."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tandem.client import Client
from tandem.cluster.run_state import RunState
from tandem.core.prepared_model import PreparedModel
from tests.fakes.command_line import CommandLine, write_config

NAME = "tiny"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, tiny: PreparedModel) -> Iterator[tuple[CommandLine, RunState]]:
    """A cluster that is up for the tests of this file; `tandem down` must leave nothing of it."""
    shell = CommandLine(tmp_path_factory.mktemp("local") / "home")
    process = shell.start("up", "-f", str(write_config(shell.folder, tiny, name=NAME)))
    try:
        yield shell, shell.wait_up(process, NAME)
        down = shell.run("down", "--name", NAME)
        assert down.status == 0, down.err
        assert process.wait(10) == 0
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
    assert shell.leftovers() == []
    assert shell.state(NAME) is None


def test_generate_prints_an_answer(running: tuple[CommandLine, RunState]) -> None:
    shell, _ = running
    streamed = shell.run("generate", "hello there", "--max-tokens", "8", "--temperature", "0")
    assert streamed.status == 0, streamed.err
    whole = shell.run("generate", "hello there", "--max-tokens", "8", "--temperature", "0", "--no-stream")
    assert whole.out == streamed.out != "\n"
    assert whole.err == ""


def test_generate_as_json_shows_a_hand_over(running: tuple[CommandLine, RunState]) -> None:
    shell, _ = running
    done = shell.run("generate", "hello", "--max-tokens", "6", "--seed", "3", "--temperature", "1", "-n", "2", "--json")
    assert done.status == 0, done.err
    answer = done.json()
    assert answer["workers"] == {"prefill_worker": "prefill-0", "decode_worker": "decode-0"}
    assert answer["timings"]["handover_ms"] > 0
    assert len(answer["sequences"]) == 2
    assert len(done.out.splitlines()) == 1


def test_generate_reads_a_pipe(running: tuple[CommandLine, RunState]) -> None:
    shell, _ = running
    piped = shell.run("generate", "-", "--max-tokens", "8", "--temperature", "0", stdin="hello there")
    given = shell.run("generate", "hello there", "--max-tokens", "8", "--temperature", "0")
    assert piped.out == given.out


def test_chat_from_a_pipe_keeps_the_conversation(running: tuple[CommandLine, RunState]) -> None:
    shell, _ = running
    done = shell.run("chat", "--max-tokens", "4", "--temperature", "0", stdin="one\n\ntwo\n/new\none\n/exit\nnever\n")
    assert done.status == 0, done.err
    assert "error" not in done.err
    assert done.out.count("\n") >= 3


def test_status_for_people_and_for_programs(running: tuple[CommandLine, RunState]) -> None:
    shell, state = running
    shown = shell.run("status")
    assert shown.status == 0, shown.err
    assert "ready" in shown.out
    assert "prefill-0" in shown.out
    assert "decode-0" in shown.out
    told = shell.run("status", "--json").json()
    assert told["public_address"] == state.public_address
    assert told["status"]["ready"] is True
    assert shell.run("status", "--address", state.internal_address).status == 0


def test_the_sdk_reaches_it(running: tuple[CommandLine, RunState]) -> None:
    _, state = running
    with Client(state.public_address) as client:
        client.wait_until_ready(10.0)
        first = client.generate("hello there", max_tokens=8, temperature=0.0)
        again = client.generate("hello there", max_tokens=8, temperature=0.0)
        assert first.token_ids == again.token_ids


def test_the_name_is_taken(running: tuple[CommandLine, RunState], tiny: PreparedModel) -> None:
    shell, state = running
    again = shell.run("up", "-f", str(write_config(shell.folder, tiny, name=NAME)))
    assert again.status == 1
    assert f"a cluster named '{NAME}' runs already (process {state.pid}" in again.err
    assert "tandem down" in again.err


def test_the_port_is_taken(running: tuple[CommandLine, RunState], tiny: PreparedModel) -> None:
    shell, state = running
    path = write_config(shell.folder, tiny, name="second")
    path.write_text(path.read_text().replace("port: 0", f"port: {state.public_address.rpartition(':')[2]}"))
    done = shell.run("up", "-f", str(path))
    assert done.status == 1
    assert "router could not start: can't listen on port" in done.err
    assert "Traceback" not in done.err
    assert shell.state("second") is None


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("generate", "x", "--model", "other"), "model 'other' is not served here"),
        (("generate", ""), "prompt"),
        (("generate", "x", "--max-tokens", "0"), "max_tokens"),
        (("generate", "x", "--temperature", "-1"), "temperature"),
        (("generate", "x", "--temperature", "nan"), "temperature"),
        (("generate", "x", "-n", "99"), "n"),
        (("generate", "x", "--address", "127.0.0.1:9"), "127.0.0.1:9"),
        (("generate", "x", "--address", "nowhere"), "host:port"),
        (("generate", "x", "--address", "10.9.9.9:1"), "--insecure"),
        (("generate", "x", "--name", "nobody"), "no cluster named 'nobody' runs here"),
    ],
)
def test_bad_requests_get_one_clear_line(
    running: tuple[CommandLine, RunState], words: tuple[str, ...], expected: str
) -> None:
    shell, _ = running
    done = shell.run(*words)
    assert done.status == 1
    assert expected in done.err
    assert done.err.startswith("error: ")
    assert "Traceback" not in done.err
    assert done.out.strip() == ""


@pytest.mark.parametrize("worker", ["decode-0", "prefill-0"])
def test_a_killed_worker_is_replaced_and_requests_are_served(
    running: tuple[CommandLine, RunState], worker: str
) -> None:
    shell, _ = running
    before = shell.workers(NAME)[worker]["info"]
    os.kill(before["pid"], signal.SIGKILL)
    done = shell.run("generate", "hello there", "--max-tokens", "8", "--temperature", "0", "--timeout", "60", "--json")
    assert done.status == 0, done.err
    after = shell.workers(NAME)[worker]["info"]
    assert after["pid"] != before["pid"]
    assert after["epoch"] != before["epoch"]


def test_ctrl_c_drains_and_leaves_nothing(shell: CommandLine, tiny: PreparedModel) -> None:
    process = shell.start("up", "-f", str(write_config(shell.folder, tiny, name="brief")))
    shell.wait_up(process, "brief")
    done = shell.end(process, number=signal.SIGINT)
    assert done.status == 0
    assert "nothing is left running" in done.err
    assert "Traceback" not in done.err
    assert shell.leftovers() == []
    assert shell.state("brief") is None


def test_ctrl_c_during_the_start(shell: CommandLine, tiny: PreparedModel) -> None:
    process = shell.start("up", "-f", str(write_config(shell.folder, tiny, name="brief")))
    _wait_for_children(process.pid)
    done = shell.end(process, number=signal.SIGINT)
    assert done.status == 130
    assert "Traceback" not in done.err
    assert shell.leftovers() == []


def test_a_killed_command_leaves_nothing(shell: CommandLine, tiny: PreparedModel) -> None:
    process = shell.start("up", "-f", str(write_config(shell.folder, tiny, name="brief")))
    shell.wait_up(process, "brief")
    shell.end(process, number=signal.SIGKILL)
    assert shell.leftovers(within_s=40.0) == []  # far from the last resort's 90 s, and enough on a busy machine
    done = shell.run("status")
    assert (done.status, "no cluster runs here" in done.err) == (1, True), "the stale file does not count"


def test_a_second_ctrl_c_ends_it_at_once(shell: CommandLine, tiny: PreparedModel) -> None:
    process = shell.start("up", "-f", str(write_config(shell.folder, tiny, name="brief")))
    state = shell.wait_up(process, "brief")
    with Client(state.public_address) as client:
        client.wait_until_ready(10.0)
        with client.stream("hello", max_tokens=900, ignore_eos=True) as stream:  # keeps the drain waiting
            next(iter(stream))
            process.send_signal(signal.SIGINT)
            time.sleep(0.3)
            done = shell.end(process, number=signal.SIGINT)
    assert done.status in (0, 130)
    assert shell.leftovers() == []


def test_bad_models_and_files(shell: CommandLine, tiny: PreparedModel, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text(json.dumps({"model_type": "llama"}), encoding="utf-8")
    for source, expected in (
        (str(tmp_path / "nothing"), "there is no model at"),
        (str(tmp_path / "empty"), "safetensors"),
        ("builtin:nobody", "there is no built-in model 'nobody'"),
    ):
        path = write_config(shell.folder, tiny, name="bad")
        path.write_text(path.read_text().replace(str(tiny.folder), source))
        done = shell.run("up", "-f", str(path))
        assert done.status == 1
        assert expected in done.err
        assert "→" in done.err, "it says what to do"
        assert "Traceback" not in done.err
    path = write_config(shell.folder, tiny, name="bad")
    path.write_text(path.read_text() + "piools: {}\n")
    done = shell.run("up", "-f", str(path))
    assert done.status == 1
    assert "unknown key; did you mean 'pools'?" in done.err
    assert shell.leftovers() == []


def _wait_for_children(pid: int) -> None:
    end_s = time.monotonic() + 20
    while not psutil.Process(pid).children():
        assert time.monotonic() < end_s
        time.sleep(0.02)
