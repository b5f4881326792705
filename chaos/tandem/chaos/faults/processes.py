"""Faults on processes: ended at once, stopped and continued. A pid is held to its start time, for pids come again."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tandem.chaos.faults.evidence import Evidence

_POLL_S: Final = 0.002
_SETTLE_S: Final = 5.0
_GONE: Final = frozenset({"", "Z", "X"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessState:
    """What the kernel says of a process."""

    state: str  # one letter of proc(5); "" = there is none of this pid
    started_ticks: int  # since boot; 0 = there is none


_NO_PROCESS: Final = ProcessState(state="", started_ticks=0)


def process_state(pid: int) -> ProcessState:
    """Return the present state of ``pid``."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return _NO_PROCESS
    fields = text.rpartition(")")[2].split()  # the name in parentheses may hold anything
    return ProcessState(state=fields[0], started_ticks=int(fields[19]))


class _Target:
    """One life of one pid."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._began = process_state(pid)
        self.was_there = self._began.state not in _GONE

    def state(self) -> str:
        """Its state letter; "" once it is gone, whoever has its number then."""
        now = process_state(self.pid)
        return now.state if now.started_ticks == self._began.started_ticks else ""

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal, if it is still that process."""
        if not self.was_there or self.state() in _GONE:
            return False
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True

    def wait_for(self, states: frozenset[str]) -> bool:
        """Wait a short while until it is in one of ``states``."""
        until_s = time.monotonic() + _SETTLE_S
        while time.monotonic() < until_s:
            if self.state() in states:
                return True
            time.sleep(_POLL_S)
        return False


class Kill:
    """kill -9 (or another signal that a process does not survive), done when made."""

    def __init__(self, pid: int, number: signal.Signals = signal.SIGKILL) -> None:
        self._target = _Target(pid)
        self.killed_s = time.monotonic()
        self._was_sent = self._target.signal(number)
        self._is_gone = self._was_sent and self._target.wait_for(_GONE)

    def verify(self) -> Evidence:
        """It was alive, and it is gone (or a zombie that nobody has waited for yet)."""
        facts = f"pid {self._target.pid} was {'there' if self._target.was_there else 'not there'}"
        return Evidence(took_effect=self._is_gone, facts=f"{facts}, killed: {self._is_gone}")


class Stop:
    """SIGSTOP when made, SIGCONT by `resume`. Use as a context manager, so that nothing stays stopped."""

    def __init__(self, pid: int) -> None:
        self._target = _Target(pid)
        self._began_s = time.monotonic()
        self._was_stopped = self._target.signal(signal.SIGSTOP) and self._target.wait_for(frozenset("T"))
        self._is_resumed = False
        self._stayed = False
        self._stopped_s = 0.0

    def __enter__(self) -> "Stop":
        return self

    def __exit__(self, *_: object) -> None:
        self.resume()

    def resume(self) -> None:
        """Let it go on; idempotent."""
        if self._is_resumed:
            return
        self._stayed = self._target.state() == "T"  # nobody else had continued it
        self._stopped_s = time.monotonic() - self._began_s
        self._is_resumed = self._target.signal(signal.SIGCONT) and self._target.wait_for(frozenset("RSD"))

    def verify(self) -> Evidence:
        """The kernel showed state T from the stop to the resumption (to now, before that)."""
        stayed = self._stayed if self._is_resumed else self._target.state() == "T"
        facts = f"pid {self._target.pid} stopped {self._stopped_s:.2f} s, resumed: {self._is_resumed}"
        return Evidence(took_effect=self._was_stopped and stayed, facts=facts)
