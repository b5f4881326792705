"""Progress for people: one line per phase with elapsed seconds; a live line on a terminal, plain lines elsewhere."""

import time
from typing import Protocol, TextIO

import rich.console


class Progress(Protocol):
    """Where long work says how far it is."""

    def begin(self, phase: str) -> None:
        """A phase starts."""
        ...

    def update(self, detail: str) -> None:
        """Something happened inside the phase."""
        ...

    def done(self, result: str = "") -> None:
        """The phase is over."""
        ...


class SilentProgress:
    """For machines."""

    def begin(self, phase: str) -> None:
        """Say nothing."""

    def update(self, detail: str) -> None:
        """Say nothing."""

    def done(self, result: str = "") -> None:
        """Say nothing."""


class LineProgress:
    """Writes ``[elapsed] phase … result``. On a terminal the running phase is redrawn in place."""

    def __init__(self, stream: TextIO, *, color: bool) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._console = rich.console.Console(file=stream, no_color=not color, highlight=False)
        self._began_s = time.monotonic()
        self._phase_began_s = self._began_s
        self._phase = ""

    def begin(self, phase: str) -> None:
        """Start a phase."""
        self._phase, self._phase_began_s = phase, time.monotonic()
        self._draw("…", end="" if self._is_terminal else "\n")

    def update(self, detail: str) -> None:
        """Redraw the phase on a terminal; stay silent elsewhere, where each line is kept for ever."""
        if self._is_terminal:
            self._draw(f"… {detail}", end="")

    def done(self, result: str = "") -> None:
        """End the phase with its duration."""
        took_s = time.monotonic() - self._phase_began_s
        self._draw(f"✓ {result} ({took_s:.1f} s)" if result else f"✓ ({took_s:.1f} s)", end="\n")
        self._phase = ""

    def _draw(self, tail: str, *, end: str) -> None:
        if self._is_terminal:
            self._stream.write("\r\x1b[2K")
        elapsed_s = time.monotonic() - self._began_s
        self._console.print(f"[dim]{elapsed_s:6.1f} s[/dim]  {self._phase} {tail}", end=end, soft_wrap=True)
        self._stream.flush()
