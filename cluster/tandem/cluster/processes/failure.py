"""How a child says why it could not start, and what the parent makes of it: the same error, one process further up."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tandem.cluster.processes.lifeline import report
from tandem.core.errors import ConfigError, EnvironmentProblem, ModelError, SetupError, TandemError

_RAISED = re.compile(r"[\w.]*(Error|Exception|Failed|Problem)\b")  # how a traceback ends
_KINDS: dict[str, type[SetupError]] = {kind.reason: kind for kind in (ConfigError, ModelError, EnvironmentProblem)}


def report_failure(error: TandemError) -> None:
    """Tell the parent about a problem that a person can solve."""
    problem, remedy = (error.problem, error.remedy) if isinstance(error, SetupError) else (error.message, "")
    report("failed", problem=problem, remedy=remedy, reason=error.reason)


def error_from_status(who: str, status: dict[str, Any], log_file: Path) -> SetupError:
    """Return the error that a child's ``failed`` status stands for."""
    return setup_error(who, status, remedy=f"see {log_file}")


def setup_error(who: str, facts: Mapping[str, Any], *, remedy: str) -> SetupError:
    """Return the error of these facts; ``remedy`` is for a failure that brings none of its own."""
    kind = _KINDS.get(str(facts.get("reason", "")), EnvironmentProblem)
    problem = facts.get("problem") or "no reason given"
    return kind(f"{who} could not start: {problem}", remedy=str(facts.get("remedy") or "") or remedy)


def error_from_exit(who: str, code: int | None, log_tail: str, log_file: Path) -> EnvironmentProblem:
    """Return the error for a child that ended without a word: the last line of its log says most."""
    lines = [line.strip() for line in log_tail.splitlines() if line.strip()]
    last = next((line for line in reversed(lines) if _RAISED.match(line)), lines[-1] if lines else "")
    ended = f"killed by signal {-code}" if code is not None and code < 0 else f"exit status {code}"
    return EnvironmentProblem(f"{who} ended early ({ended})" + (f": {last}" if last else ""), remedy=f"see {log_file}")
