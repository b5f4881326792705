"""`tandem down`: drain a cluster of this machine and see it end."""

import os
import signal
import time

from tandem.cluster.commands.terminal import open_terminal
from tandem.cluster.run_state import RunStates, is_process
from tandem.core.environment import read_environment
from tandem.core.errors import EnvironmentProblem

_POLL_S = 0.1


def run_down(name: str | None, *, timeout_s: float, force: bool) -> None:
    """End it. Raises EnvironmentProblem when there is none, or when it does not end in time."""
    environment = read_environment()
    terminal = open_terminal(environment)
    progress = terminal.progress()
    state = RunStates(environment.run_folder).pick(name)
    phase = progress.begin(state.name)
    phase.update("draining")
    _signal(state.pid, signal.SIGTERM)
    if not _wait_gone(state.pid, state.started_s, timeout_s):
        if not force:
            progress.stop()
            raise EnvironmentProblem(
                f"{state.name} (process {state.pid}) still drains after {timeout_s:g} s",
                remedy="wait longer with --timeout, or end it with --force",
            )
        _signal(state.pid, signal.SIGKILL)  # its processes notice and end by themselves
        _wait_gone(state.pid, state.started_s, 5.0)
        RunStates(environment.run_folder).remove(state.name, state.pid)
    phase.done("down")


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise EnvironmentProblem(f"process {pid} belongs to somebody else", remedy="ask its owner") from error


def _wait_gone(pid: int, started_s: float, timeout_s: float) -> bool:
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        if not is_process(pid, started_s):
            return True
        time.sleep(_POLL_S)
    return False
