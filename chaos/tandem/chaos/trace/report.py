"""What the checker found. Zero I/O."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from tandem.chaos.trace.seen import Seen
from tandem.chaos.trace.words import describe
from tandem.core.blocks import BlockRef

INVARIANTS: Final = ("I1", "I2", "I3", "I4", "I5", "I6", "I7", "I8")
_MAX_KEPT = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One broken invariant; ``history`` tells in words what had happened to the block or request before."""

    invariant: str
    process: str
    place: str
    problem: str
    history: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{self.invariant} {self.place}: {self.problem}", *(f"    {line}" for line in self.history)]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnfinishedLog:
    """The log of a process that did not end in order. Whoever killed it knows its pid; nobody else may have."""

    process: str
    epoch: int
    pid: int  # 0 = the log does not even begin
    last_s: float  # of its last record


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The verdict on a run. Good: no violations. Proven: complete too, and ``num_checks`` is not 0 where it matters."""

    violations: list[Violation]
    num_violations: int
    num_events: int
    counts: dict[str, int]
    num_checks: dict[str, int]
    num_processes: int
    num_killed: int
    incomplete: list[str]
    unfinished: list[UnfinishedLog] = field(default_factory=list)
    num_excused: int = 0  # moments at which a role stood empty, as it had been announced (I7)

    @property
    def is_complete(self) -> bool:
        """Whether every log holds all that its process did (up to its end)."""
        return not self.incomplete


@dataclass(slots=True)
class Findings:
    """Collects violations and counts what was checked."""

    violations: list[Violation] = field(default_factory=list)
    num_violations: int = 0
    num_checks: Counter[str] = field(default_factory=Counter)
    num_excused: int = 0

    def checked(self, invariant: str) -> None:
        """Count one check that was made, whatever came of it."""
        self.num_checks[invariant] += 1

    def broken(
        self, invariant: str, seen: Seen, problem: str, history: Iterable[Seen] = (), *, block: BlockRef | None = None
    ) -> None:
        """Note a violation at ``seen``; only the first thousand are kept."""
        self.num_violations += 1
        if len(self.violations) >= _MAX_KEPT:
            return
        self.violations.append(
            Violation(
                invariant=invariant,
                process=f"{seen.process.name}-{seen.process.epoch}",
                place=seen.place,
                problem=problem,
                history=tuple(
                    f"{past.place} ({past.at_s - seen.at_s:+.6f} s, {past.process.name}): "
                    f"{describe(past.event, block=block)}"
                    for past in history
                ),
            )
        )
