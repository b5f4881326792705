"""Pauses, failures across processes, reports, interrupts, and the rules of a foreign Ray."""

import asyncio
import io
import itertools
import json
import os
import signal
import threading
from pathlib import Path

import pytest

from tandem.client import PhaseTimings, ServedBy, Usage
from tandem.cluster.commands.report import served_line, table, timing_lines, usage_line
from tandem.cluster.commands.status import status_lines
from tandem.cluster.commands.terminal import Terminal
from tandem.cluster.config.model import ClusterConfig
from tandem.cluster.interrupts import Interrupted, Interrupts
from tandem.cluster.processes import lifeline
from tandem.cluster.processes.failure import error_from_exit, error_from_status, report_failure
from tandem.cluster.runtime.backoff import FIRST_S, HEALTHY_S, MAX_S, Backoff
from tandem.cluster.runtime.choice import make_runtime
from tandem.cluster.runtime.local import LocalRuntime
from tandem.cluster.runtime.ray_runtime import RayRuntime, require_safe_placement, workers_are_elsewhere
from tandem.core.cluster import ClusterStatus, WorkerState, WorkerStatus
from tandem.core.errors import (
    ConfigError,
    EnvironmentProblem,
    InternalError,
    ModelError,
    SetupError,
    TandemError,
)
from tandem.core.ids import WorkerId
from tandem.core.types import WorkerLoad
from tests.unit.cluster.test_registry import WORKER


def config(**sections: object) -> ClusterConfig:
    return ClusterConfig.model_validate({"model": {"source": "x"}, **sections})


# --- pauses -------------------------------------------------------------------------------------------------------


def test_pauses_double_up_to_a_limit_and_begin_anew_after_a_long_life() -> None:
    backoff = Backoff()
    pauses = [backoff.after(lived_s=0.1) for _ in range(12)]
    assert pauses[0] == FIRST_S
    assert all(b == min(2 * a, MAX_S) for a, b in itertools.pairwise(pauses))
    assert pauses[-1] == MAX_S
    assert backoff.after(lived_s=HEALTHY_S) == FIRST_S


# --- failures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        ModelError("no weights", remedy="give some"),
        ConfigError("bad line", remedy="mend it"),
        EnvironmentProblem("no room", remedy="make some"),
    ],
)
def test_a_failure_keeps_its_kind_words_and_remedy(error: SetupError, capsys: pytest.CaptureFixture[str]) -> None:
    report_failure(error)
    came = error_from_status("router", json.loads(capsys.readouterr().out), Path("/l"))
    assert type(came) is type(error)
    assert came.problem == f"router could not start: {error.problem}"
    assert came.remedy == error.remedy


def test_a_failure_without_a_remedy_names_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    error: TandemError = InternalError("oh")
    report_failure(error)
    came = error_from_status("router", json.loads(capsys.readouterr().out), Path("/l/router.log"))
    assert isinstance(came, EnvironmentProblem)
    assert came.remedy == "see /l/router.log"


def test_an_exit_without_words() -> None:
    assert "(exit status 3)" in error_from_exit("x", 3, "", Path("/l")).problem
    assert "killed by signal 9" in error_from_exit("x", -9, "a\nb\n\n", Path("/l")).problem
    assert error_from_exit("x", -9, "a\nb\n\n", Path("/l")).problem.endswith(": b")
    crash = "TypeError: no clock\nFatal: at shutdown\n  <no Python frame>\n"
    assert error_from_exit("x", -6, crash, Path("/l")).problem.endswith(": TypeError: no clock")


# --- reports ------------------------------------------------------------------------------------------------------


def test_timings_are_aligned_and_a_missing_phase_is_a_dash() -> None:
    lines = timing_lines(PhaseTimings(tokenize_ms=1.24, queue_ms=0.5, prefill_ms=120.0, ttft_ms=121.7, total_ms=1e3))
    assert lines[0] == "tokenize           1.2 ms"
    assert [line.split()[0] for line in lines] == [
        "tokenize",
        "queue",
        "prefill",
        "TTFT",
        "hand-over",
        "first",
        "total",
    ]
    assert lines[4].split()[1:] == ["-"]
    assert len({len(line) for line in lines if "ms" in line}) == 1


def test_who_served() -> None:
    pair = ServedBy(prefill_worker=WorkerId("p"), decode_worker=WorkerId("d"))
    assert served_line(pair, transport="KV over tcp") == "prompt on p → KV over tcp → answer on d"
    alone = ServedBy(prefill_worker=WorkerId("d"), decode_worker=WorkerId("d"))
    assert served_line(alone, transport="tcp") == "prompt and answer on d, no hand-over"


def test_usage_with_and_without_a_rate() -> None:
    usage = Usage(prompt_tokens=3, cached_tokens=0, output_tokens=11)
    assert usage_line(usage, PhaseTimings(ttft_ms=100.0, total_ms=1100.0)).endswith("10.0 tokens/s after the first")
    one = Usage(prompt_tokens=3, cached_tokens=0, output_tokens=1)
    assert usage_line(one, PhaseTimings(ttft_ms=1.0, total_ms=1.0)) == "3 prompt tokens, 1 output tokens"


def test_tables_are_aligned() -> None:
    assert table(("a", "bbb"), [("xx", "y"), ("z", "w")]) == ["a   bbb", "xx  y", "z   w"]


def test_status_for_people() -> None:
    load = WorkerLoad(num_running=2, num_waiting=1, free_blocks=3, total_blocks=8)
    status = ClusterStatus(
        model="m",
        ready=False,
        not_ready_reason="no decode worker is ready",
        router_id="router-0",
        uptime_s=3725.0,
        num_running=2,
        num_ended={"ok": 5, "failed": 0},
        workers=(
            WorkerStatus(info=WORKER, state=WorkerState.READY, load=load),
            WorkerStatus(info=WORKER, state=WorkerState.LOST),
        ),
    )
    lines = status_lines(status)
    assert lines[0] == "m  not ready: no decode worker is ready  (router-0, up 1 h 2 min)"
    assert lines[1] == "2 running, 0 queued; ended: 5 ok"
    assert lines[4].split() == ["decode-0", "decode", "ready", "2", "1", "3/8", "127.0.0.1:1", "1"]
    assert lines[5].split()[2:6] == ["lost", "-", "-", "-"]


def test_a_pipe_gets_no_colours() -> None:
    terminal = Terminal(out=io.StringIO(), err=io.StringIO())
    assert terminal.bold("x") == "x"
    assert not terminal.colors(terminal.err)


# --- interrupts ---------------------------------------------------------------------------------------------------


async def test_work_that_ends_first_gives_its_result() -> None:
    with Interrupts(on_first=lambda: None, on_second=lambda: None) as interrupts:
        assert await interrupts.unless_stopped(asyncio.sleep(0, "done")) == "done"
        with pytest.raises(ValueError, match="oh"):
            await interrupts.unless_stopped(_fail())


async def test_a_signal_cancels_the_work_and_lets_it_clean_up() -> None:
    cleaned: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            cleaned.append("yes")

    first: list[str] = []
    with Interrupts(on_first=lambda: first.append("told"), on_second=lambda: None) as interrupts:
        asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted):
            await interrupts.unless_stopped(work())
    assert (cleaned, first) == (["yes"], ["told"])


async def test_the_second_signal_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int | str] = []
    monkeypatch.setattr("os._exit", ended.append)
    with Interrupts(on_first=lambda: None, on_second=lambda: ended.append("killed")):
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(0.02)
        assert ended == []
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(0.02)
    assert ended == ["killed", 130]


async def test_signals_are_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Interrupts(on_first=lambda: None, on_second=lambda: None):
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) == before


async def _fail() -> None:
    raise ValueError("oh")


# --- the lifeline -------------------------------------------------------------------------------------------------


def test_the_lifeline_ends_with_its_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    ended, exits = threading.Event(), threading.Event()
    with os.fdopen(read, "r", encoding="utf-8") as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        monkeypatch.setattr("os._exit", lambda status: exits.set())
        thread = lifeline.watch_lifeline(ended.set, last_resort_s=0.05)
        os.write(write, b"what is written there is not looked at")
        assert not ended.wait(0.1)
        os.close(write)
        assert ended.wait(5)
        assert exits.wait(5), "a child that hangs is ended by its own last resort"
        thread.join(5)


def test_a_report_to_nobody_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr("sys.stdout", closed)
    lifeline.report("ready")


# --- a foreign Ray ------------------------------------------------------------------------------------------------

FOREIGN = {"kind": "ray", "address": "auto"}
REACHABLE = {"internal_host": "10.0.0.1"}


def test_workers_are_elsewhere_only_in_a_foreign_ray_with_no_pinned_host() -> None:
    assert workers_are_elsewhere(config(runtime=FOREIGN))
    assert not workers_are_elsewhere(config(runtime=FOREIGN, workers={"host": "127.0.0.1"}))
    assert not workers_are_elsewhere(config(runtime={"kind": "ray"}))
    assert not workers_are_elsewhere(config())


def test_they_must_be_able_to_reach_the_registry() -> None:
    protected = {"runtime": FOREIGN, "workers": {"insecure": True}}
    with pytest.raises(ConfigError, match=r"router\.internal_host is 127\.0\.0\.1"):
        require_safe_placement(config(**protected))
    require_safe_placement(config(**protected, router=REACHABLE))
    require_safe_placement(config(**protected, registry={"redis_url": "redis://r:1/0"}))
    require_safe_placement(config(runtime={"kind": "ray"}))


def test_they_need_protection_or_somebody_who_takes_the_blame() -> None:
    with pytest.raises(ConfigError, match=r"workers\.tls is not set"):
        require_safe_placement(config(runtime=FOREIGN, router=REACHABLE))
    tls = {"certificate": "/c", "key": "/k", "ca": "/a"}
    require_safe_placement(config(runtime=FOREIGN, router=REACHABLE, workers={"insecure": True}))
    require_safe_placement(config(runtime=FOREIGN, router=REACHABLE, workers={"tls": tls}))
    require_safe_placement(config(runtime=FOREIGN, workers={"host": "127.0.0.1"}))
    require_safe_placement(config(runtime={"kind": "ray"}))


async def test_the_runtime_is_the_one_asked_for(tmp_path: Path) -> None:
    assert isinstance(make_runtime(config(), log_folder=tmp_path), LocalRuntime)
    assert isinstance(make_runtime(config(runtime={"kind": "ray"}), log_folder=tmp_path), RayRuntime)
