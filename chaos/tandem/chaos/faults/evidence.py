"""What a fault says about itself afterwards: a test whose fault missed its target proves nothing."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Whether a fault took effect, and by which measured facts."""

    took_effect: bool
    facts: str  # e.g. "cut after 4096 of 4096 bytes"


class Fault(Protocol):
    """Anything that breaks something on purpose."""

    def verify(self) -> Evidence:
        """Tell whether it took effect; may be asked at any time, and says yes only on what was observed."""
        ...
