"""An event with who recorded it, when and where it stands. Zero I/O."""

from dataclasses import dataclass

from tandem.core.event_log.events import Event
from tandem.core.event_log.record import ProcessLife


@dataclass(frozen=True, slots=True)
class Seen:
    """``at_s`` is of the process's own clock; ``file`` and ``line`` are empty for events fed in process."""

    process: ProcessLife
    at_s: float
    event: Event
    file: str = ""
    line: int = 0

    @property
    def place(self) -> str:
        """Where it stands, for people."""
        return f"{self.file}:{self.line}" if self.file else f"{self.process.name} at {self.at_s:.6f} s"
