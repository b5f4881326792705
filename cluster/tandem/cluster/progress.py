"""Progress for people: one line per phase with elapsed seconds; a live line on a terminal, plain lines elsewhere."""

import time
from typing import Protocol, TextIO

_LIVE_EVERY_S = 0.1
_PLAIN_EVERY_S = 5.0


class Phase(Protocol):
    """One piece of work under way. Several may be open at once."""

    def update(self, detail: str) -> None:
        """Something happened inside the phase."""
        ...

    def done(self, result: str = "") -> None:
        """The phase is over."""
        ...


class Progress(Protocol):
    """Where long work says how far it is."""

    def begin(self, name: str) -> Phase:
        """A phase starts."""
        ...

    def tell(self, text: str) -> None:
        """Something that goes as it should, and that a person should know."""
        ...

    def warn(self, text: str) -> None:
        """Something a person should know, though work goes on."""
        ...

    def stop(self) -> None:
        """No more progress comes: what is open stays unfinished. Idempotent."""
        ...


class SilentProgress:
    """For machines: a progress, and its own phases, that say nothing."""

    def begin(self, name: str) -> Phase:
        """Say nothing."""
        return self

    def tell(self, text: str) -> None:
        """Say nothing."""

    def warn(self, text: str) -> None:
        """Say nothing."""

    def stop(self) -> None:
        """Say nothing."""

    def update(self, detail: str) -> None:
        """Say nothing."""

    def done(self, result: str = "") -> None:
        """Say nothing."""


class LineProgress:
    """Writes ``elapsed  phase  result (duration)`` when a phase ends.

    On a terminal the open phases stand in one more line that is redrawn in place; elsewhere a long phase adds a line
    now and then, because every line is kept for ever.
    """

    def __init__(self, stream: TextIO, *, color: bool) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._color = color
        self._began_s = time.monotonic()
        self._drawn_s = 0.0
        self._open: list[_LinePhase] = []

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began_s

    def begin(self, name: str) -> Phase:
        """Start a phase."""
        phase = _LinePhase(self, name)
        self._open.append(phase)
        self._draw_live()
        return phase

    def tell(self, text: str) -> None:
        """Write a line of its own."""
        self._line(f"{self._stamp()}  {text}")

    def warn(self, text: str) -> None:
        """Write a line of its own."""
        self._line(f"{self._stamp()}  {self._painted('33', 'warning')}: {text}")

    def stop(self) -> None:
        """Leave the live line."""
        self._open.clear()
        self._erase_live()
        self._stream.flush()

    def note(self, phase: "_LinePhase") -> None:
        """A phase has a new detail."""
        if self._is_terminal:
            if time.monotonic() - self._drawn_s >= _LIVE_EVERY_S:
                self._draw_live()
        elif time.monotonic() - phase.told_s >= _PLAIN_EVERY_S:
            phase.told_s = time.monotonic()
            self._line(f"{self._stamp()}  {phase.name}: {phase.detail}")

    def finish(self, phase: "_LinePhase", result: str) -> None:
        """A phase ended."""
        if phase in self._open:
            self._open.remove(phase)
        took = self._painted("2", f"({time.monotonic() - phase.began_s:.1f} s)")
        mark = self._painted("32", "✓")
        self._line(" ".join(part for part in (f"{self._stamp()}  {mark} {phase.name}", result, took) if part))

    def _stamp(self) -> str:
        return self._painted("2", f"{self.elapsed_s:6.1f} s")

    def _painted(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._color else text

    def _line(self, text: str) -> None:
        self._erase_live()
        self._stream.write(text + "\n")
        self._draw_live()
        self._stream.flush()

    def _erase_live(self) -> None:
        if self._is_terminal:
            self._stream.write("\r\x1b[2K")

    def _draw_live(self) -> None:
        if not self._is_terminal:
            return
        self._drawn_s = time.monotonic()
        self._erase_live()
        shown = "; ".join(f"{phase.name} … {phase.detail}".rstrip() for phase in self._open)
        if shown:
            self._stream.write(f"{self.elapsed_s:6.1f} s    {shown}"[:110])
        self._stream.flush()


class _LinePhase:
    """One open phase of a `LineProgress`."""

    def __init__(self, progress: LineProgress, name: str) -> None:
        self.name = name
        self.detail = ""
        self.began_s = self.told_s = time.monotonic()
        self._progress = progress

    def update(self, detail: str) -> None:
        self.detail = detail
        self._progress.note(self)

    def done(self, result: str = "") -> None:
        self._progress.finish(self, result)
