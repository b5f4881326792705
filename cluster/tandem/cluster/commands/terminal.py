"""Where the commands write: answers and data to standard output, everything about them to standard error."""

import sys
from dataclasses import dataclass
from typing import TextIO

from tandem.cluster.progress import LineProgress
from tandem.core.environment import Environment


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminal:
    """Both streams, and whether they take colours."""

    out: TextIO
    err: TextIO
    no_color: bool = False

    def say(self, text: str = "") -> None:
        """Write a line of data."""
        self.out.write(text + "\n")
        self.out.flush()

    def stream(self, text: str) -> None:
        """Write a piece of an answer at once."""
        self.out.write(text)
        self.out.flush()

    def note(self, text: str = "") -> None:
        """Write a line about the work."""
        self.err.write(text + "\n")
        self.err.flush()

    def bold(self, text: str) -> str:
        """Emphasise on a terminal."""
        return f"\x1b[1m{text}\x1b[0m" if self.colors(self.out) else text

    def colors(self, stream: TextIO) -> bool:
        """Whether ``stream`` may get colours."""
        return stream.isatty() and not self.no_color

    def progress(self) -> LineProgress:
        """Return a progress on standard error."""
        return LineProgress(self.err, color=self.colors(self.err))


def open_terminal(environment: Environment) -> Terminal:
    """Return the process's own terminal."""
    return Terminal(out=sys.stdout, err=sys.stderr, no_color=environment.no_color)
