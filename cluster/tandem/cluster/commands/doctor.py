"""`tandem doctor`: looks at this machine and says what works, what is missing and what to do about it."""

import json
from dataclasses import asdict

from tandem.cluster.commands.checks import Check, Level, all_checks
from tandem.cluster.commands.terminal import Terminal, open_terminal
from tandem.core.environment import read_environment
from tandem.core.errors import EnvironmentProblem

_COLORS = {Level.OK: "32", Level.WARN: "33", Level.FAIL: "31"}


def run_doctor(*, as_json: bool) -> None:
    """Run all checks and print them. Raises EnvironmentProblem when one fails."""
    environment = read_environment()
    terminal = open_terminal(environment)
    checks = all_checks(environment)
    if as_json:
        terminal.say(json.dumps({"checks": [asdict(check) for check in checks]}))
    else:
        for check in checks:
            _show(check, terminal)
    failed = [check.name for check in checks if check.level is Level.FAIL]
    if failed:
        raise EnvironmentProblem(f"this machine can't run Tandem: {', '.join(failed)}", remedy="see the lines above")


def _show(check: Check, terminal: Terminal) -> None:
    label = f"{check.level.value:<4}"
    if terminal.colors(terminal.out):
        label = f"\x1b[{_COLORS[check.level]}m{label}\x1b[0m"
    terminal.say(f"{label}  {check.name:<12}  {check.detail}")
    if check.remedy and check.level is not Level.OK:
        terminal.say(f"      {'':<12}  → {check.remedy}")
