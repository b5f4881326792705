"""A cluster's whole life by its event logs: invariants and books, and that nobody ended who was not killed on purpose.

A role may stand empty (I7) in one kind of cell only: where the request itself kills whoever computes it, and so both
workers of a role one after the other. Every other cell takes one worker at a time, or none.
"""

from dataclasses import dataclass
from typing import Final

from benchmarks.fault_matrix.cell import Cell
from benchmarks.fault_matrix.world import World
from tandem.chaos.leaks import check_usage
from tandem.chaos.tagged.model import Poison
from tandem.chaos.trace import Report, UnfinishedLog, check
from tandem.core.types import Role

_DEADLY: Final = frozenset({Poison.EXIT, Poison.OUT_OF_MEMORY})
_ENDING_ACTIONS: Final = frozenset({"exit", "crash", "oom"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What was found."""

    num_events: int
    num_checks: dict[str, int]  # by invariant: one that judged nothing has proven nothing
    problems: list[str]


def audit(world: World) -> Audit:
    """Judge a cluster that has ended."""
    logs = world.cluster.event_logs()
    report = check(logs, excused=lambda role, from_s, to_s: _is_excused(world, role, from_s, to_s))
    problems = [str(violation) for violation in report.violations]
    problems += [f"an event log lost something: {line}" for line in report.incomplete]
    problems += _ended_unasked(world, report)
    if not report.num_checks["I7"]:
        problems.append("nobody watched whether each role was served (I7)")
    problems += check_usage(logs, world.records)
    return Audit(num_events=report.num_events, num_checks=report.num_checks, problems=problems)


def kills_its_workers(cell: Cell) -> Role | None:
    """The role whose workers the cell's own request kills, each that gets it; usually none."""
    marks = set(cell.probe.marks)
    if not marks & _DEADLY:
        return None
    return Role.DECODE if Poison.LATE in marks else Role.PREFILL


def _is_excused(world: World, role: Role, from_s: float, to_s: float) -> bool:
    return any(
        kills_its_workers(span.cell) is role and span.began_s <= from_s and to_s <= span.ended_s for span in world.spans
    )


def _ended_unasked(world: World, report: Report) -> list[str]:
    """Processes whose log has no end, and that nobody killed."""
    on_purpose = set(world.killed_pids)
    for name in (*world.ports, "router-0"):
        on_purpose |= {hit.pid for hit in world.desk.hits(name) if hit.action in _ENDING_ACTIONS}
    return [
        f"{log.process}-{log.epoch} (pid {log.pid}) ended {_when(world, log.last_s)} without closing its log, and"
        " nobody had killed it"
        for log in report.unfinished
        if log.pid not in on_purpose and not _died_of_a_request(world, log)
    ]


def _when(world: World, at_s: float) -> str:
    during = [span.cell.name for span in world.spans if span.began_s <= at_s <= span.ended_s]
    after = [span.cell.name for span in world.spans if span.ended_s < at_s]
    return f"during {during[0]}" if during else f"after {after[-1]}" if after else "before the first cell"


def _died_of_a_request(world: World, log: UnfinishedLog) -> bool:
    """One that kills while it is decoded kills a prefill worker too: a retry computes its tokens as a prompt."""
    return any(
        (role := kills_its_workers(span.cell)) is not None
        and (log.process.startswith(role.value) or (role is Role.DECODE and log.process.startswith(Role.PREFILL.value)))
        and span.began_s <= log.last_s <= span.ended_s
        for span in world.spans
    )
