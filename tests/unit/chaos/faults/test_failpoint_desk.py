"""The test's side of failpoints, against the process's side."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandem.chaos.faults.failpoint_faults import FailpointDesk
from tandem.core.failpoints import VARIABLE, arm_failpoints, disarm_failpoints, failpoint


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FailpointDesk]:
    desk = FailpointDesk(tmp_path / "points")
    for name, value in desk.variables().items():
        monkeypatch.setenv(name, value)
    arm_failpoints("decode-0", exposed_by=())
    yield desk
    disarm_failpoints()


def test_the_variable_is_the_one_that_processes_read(desk: FailpointDesk) -> None:
    assert list(desk.variables()) == [VARIABLE]


def test_a_point_that_acted_says_so_and_another_does_not(desk: FailpointDesk) -> None:
    armed = desk.arm("decode-0", "d.before_commit", action="raise")
    wrong = desk.arm("decode-1", "d.before_commit", action="raise")
    assert armed.wait_hit(0.0) is None
    assert not armed.verify().took_effect
    with pytest.raises(RuntimeError):
        failpoint("d.before_commit")
    hit = armed.wait_hit(5.0)
    assert hit is not None
    assert (hit.point, hit.action, hit.phase) == ("d.before_commit", "raise", "begin")
    assert armed.verify().took_effect
    assert not wrong.verify().took_effect, "the control: a fault at another process"


def test_hits_of_an_earlier_fault_do_not_count_for_a_later_one(desk: FailpointDesk) -> None:
    desk.arm("decode-0", "engine.step", action="raise")
    with pytest.raises(RuntimeError):
        failpoint("engine.step")
    again = desk.arm("decode-0", "engine.step", action="raise", after=5)
    failpoint("engine.step")
    assert not again.verify().took_effect


def test_a_pause_is_released(desk: FailpointDesk) -> None:
    armed = desk.arm("decode-0", "p.chunk", action="pause")
    waiting = threading.Thread(target=failpoint, args=("p.chunk",))
    waiting.start()
    assert armed.wait_hit(5.0) is not None
    assert waiting.is_alive()
    armed.disarm()
    waiting.join(5.0)
    assert not waiting.is_alive()
    assert [hit.phase for hit in armed.hits()] == ["begin", "end"]
    failpoint("p.chunk")


def test_a_point_that_does_not_exist_is_a_mistake(desk: FailpointDesk) -> None:
    with pytest.raises(ValueError, match=r"d\.after_commit"):
        desk.arm("decode-0", "d.after_commit", action="exit")
