"""What a benchmark's figures must be for it to end well: bounds by name, and in words which of them do not hold."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.report import say


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """One figure and its bounds, both included. A figure that is missing, or None, is in no bounds."""

    name: str
    at_least: float | None = None
    at_most: float | None = None

    def unmet_by(self, result: Mapping[str, Any]) -> str:
        """Say what is wrong with the figure; empty if nothing."""
        value = result.get(self.name)
        if value is None:
            return f"{self.name} was not measured"
        if self.at_least is not None and value < self.at_least:
            return f"{self.name} is {value}, must be at least {self.at_least}"
        if self.at_most is not None and value > self.at_most:
            return f"{self.name} is {value}, must be at most {self.at_most}"
        return ""


def exactly(**figures: float) -> list[Demand]:
    """Figures that must be just so."""
    return [Demand(name=name, at_least=value, at_most=value) for name, value in figures.items()]


def none_of(*names: str) -> list[Demand]:
    """Figures that must be 0."""
    return [Demand(name=name, at_least=0, at_most=0) for name in names]


def at_least(**figures: float) -> list[Demand]:
    """Figures that must be so large."""
    return [Demand(name=name, at_least=value) for name, value in figures.items()]


def at_most(**figures: float) -> list[Demand]:
    """Figures that must be no larger."""
    return [Demand(name=name, at_most=value) for name, value in figures.items()]


def unmet(result: Mapping[str, Any], demands: Sequence[Demand]) -> list[str]:
    """Return one sentence per demand that does not hold."""
    return [problem for demand in demands if (problem := demand.unmet_by(result))]


def exit_unless_met(problems: Sequence[str]) -> None:
    """End the program with status 1 if there are problems, after telling them."""
    for problem in problems:
        say(f"not as demanded: {problem}")
    if problems:
        sys.exit(1)
