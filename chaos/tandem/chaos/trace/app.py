"""``python -m tandem.chaos.trace``: the checker for people and for scripts."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from tandem.chaos.trace.reader import check
from tandem.chaos.trace.report import INVARIANTS, Report
from tandem.core.errors import TandemError

_SHOWN = 20
_BROKEN = 1
_INCOMPLETE = 2
_MEANINGS = {
    "I1": "a decode step reads committed blocks of its own",
    "I2": "no chunk of an old generation or epoch is accepted",
    "I3": "allocation and freeing alternate, generations grow",
    "I4": "one terminal event, usage recorded once",
    "I5": "positions without gap or repeat",
    "I6": "pins never negative, 0 when free",
    "I7": "a worker of each role serves",
    "I8": "grants end in time",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the logs named; return the exit status: 0 good, 1 broken invariants, 2 incomplete or no logs."""
    parser = argparse.ArgumentParser(prog="python -m tandem.chaos.trace", description="Check event logs.")
    parser.add_argument("paths", nargs="+", type=Path, metavar="FILE-OR-FOLDER", help="event logs")
    parser.add_argument("--json", action="store_true", help="write the report as one JSON object")
    parser.add_argument("--no-serving", action="store_true", help="leave I7 out: the only worker of a role was killed")
    options = parser.parse_args(arguments)
    try:
        report = check(options.paths, check_serving=not options.no_serving)
    except TandemError as error:
        sys.stderr.write(f"{error}\n")
        return _INCOMPLETE
    if options.json:
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    else:
        _show(report, Console())
    if report.violations:
        return _BROKEN
    return 0 if report.is_complete else _INCOMPLETE


def _show(report: Report, console: Console) -> None:
    table = Table(title=f"{report.num_events} events of {report.num_processes} processes, {report.num_killed} killed")
    for heading in ("invariant", "means", "checks", "violations"):
        table.add_column(heading, justify="right" if heading in ("checks", "violations") else "left")
    for invariant in INVARIANTS:
        num_broken = sum(violation.invariant == invariant for violation in report.violations)
        style = "red" if num_broken else ("dim" if not report.num_checks[invariant] else "")
        cells = (invariant, _MEANINGS[invariant], str(report.num_checks[invariant]), str(num_broken))
        table.add_row(*cells, style=style)
    console.print(table)
    for violation in report.violations[:_SHOWN]:
        console.print(str(violation), markup=False, highlight=False, soft_wrap=True)
    if report.num_violations > _SHOWN:
        console.print(f"… and {report.num_violations - _SHOWN} more violations")
    for line in report.incomplete:
        console.print(f"incomplete: {line}", markup=False, highlight=False, soft_wrap=True)
