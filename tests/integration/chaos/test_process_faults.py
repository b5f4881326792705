"""Faults on processes, on children of this test; the control is a pid that is nobody's, or somebody else's by now."""

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tandem.chaos.faults.processes import Kill, Stop, process_state

_COUNTING = "import time\nwhile True: print('.', flush=True); time.sleep(0.01)"


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", _COUNTING], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.read(1)
        yield child
        child.kill()


@pytest.fixture
def gone() -> int:
    """A pid that was a process a moment ago."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_kill(child: subprocess.Popen[bytes]) -> None:
    fault = Kill(child.pid)
    assert fault.verify().took_effect
    assert child.wait() == -9
    assert fault.verify().took_effect, "also when the zombie is gone"


def test_a_kill_that_met_nobody(gone: int) -> None:
    fault = Kill(gone)
    assert not fault.verify().took_effect
    assert process_state(gone).state == ""


def test_a_zombie_is_nobody() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    while process_state(child.pid).state != "Z":
        time.sleep(0.01)
    assert not Kill(child.pid).verify().took_effect
    child.wait()


def test_stop_and_continue(child: subprocess.Popen[bytes]) -> None:
    with Stop(child.pid) as fault:
        assert fault.verify().took_effect
        assert process_state(child.pid).state == "T"
    assert process_state(child.pid).state in "RSD"
    assert fault.verify().took_effect
    fault.resume()
    assert child.poll() is None


def test_a_stop_that_somebody_else_undid_did_not_take_effect(child: subprocess.Popen[bytes]) -> None:
    with Stop(child.pid) as fault:
        child.send_signal(18)  # SIGCONT
        while process_state(child.pid).state == "T":
            time.sleep(0.01)
        assert not fault.verify().took_effect
    assert not fault.verify().took_effect


def test_a_stop_that_met_nobody(gone: int) -> None:
    with Stop(gone) as fault:
        assert not fault.verify().took_effect


def test_a_stopped_process_can_be_killed(child: subprocess.Popen[bytes]) -> None:
    with Stop(child.pid) as stop:
        assert Kill(child.pid).verify().took_effect
    assert not stop.verify().took_effect, "it did not stay stopped: it went"
