"""Failpoints: nothing when off, what was asked for when on, refused where they would be dangerous."""

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tandem.core import failpoints
from tandem.core.errors import EnvironmentProblem
from tandem.core.failpoints import (
    EXIT_STATUS,
    POINTS,
    VARIABLE,
    arm_failpoints,
    disarm_failpoints,
    failpoint,
    failpoint_again,
    failpoint_in_loop,
)

ROOT = Path(__file__).parents[3]


class Desk:
    """A folder of failpoints for process `w`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, **specs: dict[str, Any]) -> None:
        """Say what the points do; ``__`` in a name stands for the dot."""
        file = self.folder / "w.json"
        fresh = file.with_suffix(".new")
        fresh.write_text(json.dumps({name.replace("__", "."): spec for name, spec in specs.items()}))
        fresh.rename(file)

    def hits(self) -> list[tuple[str, str]]:
        """Point and phase of every line written so far."""
        file = self.folder / "w.hits"
        lines = file.read_text().splitlines() if file.exists() else []
        return [(json.loads(line)["point"], json.loads(line)["phase"]) for line in lines]


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Desk]:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert arm_failpoints("w", exposed_by=())
    yield Desk(tmp_path)
    disarm_failpoints()


def test_off_is_nothing_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the variable no file is looked at, whatever lies there, and the marks are not even computed."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    Desk(tmp_path).write(engine__step={"action": "raise"})
    assert not arm_failpoints("w", exposed_by=["tls"])  # and nothing is refused
    for name in POINTS:
        assert failpoint(name, marks=lambda: pytest.fail("computed")) is None
    assert not (tmp_path / "w.hits").exists()


def test_off_costs_next_to_nothing() -> None:
    num_calls = 100_000
    began_s = time.perf_counter()
    for _ in range(num_calls):
        failpoint("engine.step")
    assert (time.perf_counter() - began_s) / num_calls < 2e-6  # a tenth of that on a quiet machine


def test_on_without_a_file_is_nothing(desk: Desk) -> None:
    assert failpoint("engine.step") is None
    assert desk.hits() == []


def test_a_running_process_is_told_by_a_file(desk: Desk) -> None:
    failpoint("engine.step")
    desk.write(engine__step={"action": "raise"})
    with pytest.raises(RuntimeError, match=r"engine\.step"):
        failpoint("engine.step")
    assert desk.hits() == [("engine.step", "begin")]
    failpoint("engine.step")  # once is the default
    desk.write(engine__step={"action": "raise", "kind": "os", "times": None})
    for _ in range(3):
        with pytest.raises(OSError, match=r"engine\.step"):
            failpoint("engine.step")
    (desk.folder / "w.json").unlink()
    failpoint("engine.step")
    assert len(desk.hits()) == 4


def test_after_so_many_passages_so_many_times(desk: Desk) -> None:
    desk.write(p__chunk={"action": "raise", "after": 2, "times": 2})
    outcomes = []
    for _ in range(6):
        try:
            failpoint("p.chunk")
            outcomes.append("passed")
        except RuntimeError:
            outcomes.append("raised")
    assert outcomes == ["passed", "passed", "raised", "raised", "passed", "passed"]


def test_one_points_change_leaves_anothers_count_alone(desk: Desk) -> None:
    desk.write(p__chunk={"action": "raise"})
    with pytest.raises(RuntimeError):
        failpoint("p.chunk")
    desk.write(p__chunk={"action": "raise"}, engine__step={"action": "oom"})
    failpoint("p.chunk")
    with pytest.raises(MemoryError):
        failpoint("engine.step")


def test_only_where_the_mark_is(desk: Desk) -> None:
    desk.write(engine__step={"action": "raise", "mark": 7}, engine__logits={"action": "nan", "mark": 7})
    failpoint("engine.step")
    failpoint("engine.step", marks=lambda: {1, 2})
    assert failpoint("engine.logits", marks=lambda: {1, 2}) is None
    assert desk.hits() == []
    assert failpoint("engine.logits", marks=lambda: {6, 7}) == 7
    with pytest.raises(RuntimeError):
        failpoint("engine.step", marks=lambda: {6, 7})


def test_another_process_of_the_same_name_is_left_alone(desk: Desk) -> None:
    desk.write(engine__step={"action": "raise", "pid": 1})
    failpoint("engine.step")
    assert desk.hits() == []


def test_a_pause_ends_with_the_file_or_with_its_time(desk: Desk) -> None:
    flag = desk.folder / "held"
    flag.touch()
    desk.write(p__after_seal={"action": "pause", "while_exists": str(flag), "times": None})
    waiting = threading.Thread(target=failpoint, args=("p.after_seal",))
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    assert desk.hits() == [("p.after_seal", "begin")]
    flag.unlink()
    waiting.join(5.0)
    assert not waiting.is_alive()
    assert desk.hits() == [("p.after_seal", "begin"), ("p.after_seal", "end")]
    desk.write(p__after_seal={"action": "pause", "seconds": 0.05})
    began_s = time.monotonic()
    failpoint("p.after_seal")
    assert 0.05 <= time.monotonic() - began_s < 5.0


async def test_on_a_loop_a_pause_holds_nobody_else(desk: Desk) -> None:
    flag = desk.folder / "held"
    flag.touch()
    desk.write(r__before_dispatch_decode={"action": "pause", "while_exists": str(flag)})
    waiting = asyncio.create_task(failpoint_in_loop("r.before_dispatch_decode"))
    while not desk.hits():
        await asyncio.sleep(0.001)
    assert not waiting.done()
    flag.unlink()
    await asyncio.wait_for(waiting, 5.0)
    await failpoint_in_loop("r.before_dispatch_decode")  # spent
    desk.write(r__before_dispatch_decode={"action": "raise"})
    with pytest.raises(RuntimeError):
        await failpoint_in_loop("r.before_dispatch_decode")


def test_again_is_said_as_often_as_asked_and_only_where_it_is_asked(desk: Desk) -> None:
    assert not failpoint_again("r.grant")
    desk.write(r__grant={"action": "again", "times": 2}, p__chunk={"action": "again"})
    assert [failpoint_again("r.grant") for _ in range(3)] == [True, True, False]
    assert failpoint("p.chunk") is None, "nothing is done again where nobody asks"
    assert not failpoint_again("r.abort")


def test_a_file_that_is_no_spec_does_nothing(desk: Desk) -> None:
    """A test notices by the hit that does not come; a worker must not fall over its tester's typo."""
    (desk.folder / "w.json").write_text("{")
    failpoint("engine.step")
    desk.write(engine__step={"action": "explode"})
    failpoint("engine.step")
    desk.write(engine__stp={"action": "raise"})
    failpoint("engine.step")
    assert desk.hits() == []


@pytest.mark.parametrize(("action", "status"), [("exit", EXIT_STATUS), ("crash", -11)])
def test_ending_the_process(tmp_path: Path, action: str, status: int) -> None:
    Desk(tmp_path).write(engine__step={"action": action})
    program = (
        "from tandem.core.failpoints import *; import resource, sys;"
        "resource.setrlimit(resource.RLIMIT_CORE, (0, 0));"
        "arm_failpoints('w', exposed_by=()); failpoint('engine.step'); print('alive')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], env={VARIABLE: str(tmp_path)}, capture_output=True, timeout=60, check=False
    )
    assert ended.returncode == status
    assert b"alive" not in ended.stdout
    assert b"test_failpoints_armed" in ended.stdout  # structlog's default; programs of ours log to stderr
    assert Desk(tmp_path).hits() == [("engine.step", "begin")]


def test_refused_where_it_would_be_dangerous(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    Desk(tmp_path).write(engine__step={"action": "raise"})
    with pytest.raises(EnvironmentProblem, match=rf"{VARIABLE}.*w.*tls, host=0\.0\.0\.0"):
        arm_failpoints("w", exposed_by=["tls", "host=0.0.0.0"])
    failpoint("engine.step")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "missing"))
    with pytest.raises(EnvironmentProblem, match="not a folder"):
        arm_failpoints("w", exposed_by=())


def test_the_table_the_set_and_the_code_name_the_same_points() -> None:
    product = [p for p in ROOT.glob("*/tandem/**/*.py") if p.name != "failpoints.py" and "chaos" not in p.parts]
    text = "\n".join(path.read_text(encoding="utf-8") for path in product)
    calls = [f'{call}("' for call in ("failpoint", "failpoint_in_loop", "failpoint_again")]
    used = {name for name in POINTS if any(f'{call}{name}"' in text for call in calls)}
    assert used == POINTS
    assert sum(text.count(call) for call in calls) == len(POINTS)
    assert all(f"``{name}``" in (failpoints.__doc__ or "") for name in POINTS)
