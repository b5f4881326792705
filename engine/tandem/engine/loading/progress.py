"""How preparation says where it is."""

from typing import Protocol

from tandem.core.clock import Clock


class ProgressSink(Protocol):
    """Receives progress; called from the thread that prepares."""

    def report(self, phase: str, fraction: float, elapsed_s: float) -> None:
        """Take note: ``phase`` is a few words, ``fraction`` in 0..1 is of that phase, time counts from the start."""
        ...


class SilentProgress:
    """A sink that drops everything."""

    def report(self, phase: str, fraction: float, elapsed_s: float) -> None:
        """See ProgressSink."""


class Progress:
    """Adds the elapsed time, so that the steps only name phase and fraction."""

    def __init__(self, sink: ProgressSink, clock: Clock) -> None:
        self._sink = sink
        self._clock = clock
        self._start_s = clock.now_s()

    def at(self, phase: str, fraction: float = 0.0) -> None:
        """Report a phase and how much of it is done."""
        self._sink.report(phase, min(1.0, max(0.0, fraction)), self._clock.now_s() - self._start_s)
