"""How state machines are run: a short walk in every test run, a campaign on demand, a hunt for each planted defect.

``make stateful EXAMPLES=5000`` sets the number of walks per machine and draws them at random; without it they are few
and the same each time. A hunt must find its defect in every run, not in most: it looks again where it was unlucky.
"""

import os
import re

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

CAMPAIGN_EXAMPLES = int(os.environ.get("STATEFUL_EXAMPLES", "0"))


class Violation(AssertionError):
    """Something happened that must not, said by the machine: a crash of the machine itself is no find."""


def require(condition: bool, problem: str) -> None:
    """Raise Violation unless the condition holds."""
    if not condition:
        raise Violation(problem)


def _settings(num_examples: int, num_steps: int) -> settings:
    return settings(
        max_examples=num_examples,
        stateful_step_count=num_steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


def walk(machine: type[RuleBasedStateMachine], *, num_examples: int = 60, num_steps: int = 40) -> None:
    """Let the adversary try; raises Violation with the shortest schedule it found."""
    chosen = _settings(CAMPAIGN_EXAMPLES or num_examples, num_steps)
    if not CAMPAIGN_EXAMPLES:
        chosen = settings(chosen, derandomize=True, database=None)
    run_state_machine_as_test(machine, settings=chosen)


def hunt(
    machine: type[RuleBasedStateMachine],
    problem: str,
    *,
    errors: type[Exception] | tuple[type[Exception], ...] = Violation,
    num_examples: int = 1500,
    num_steps: int = 40,
) -> None:
    """Fail unless the same adversary finds the planted defect, and finds it as ``problem`` (a regular expression).

    The first search is the same in each run of the same tests; which it is depends on all modules that are loaded, and
    one in hundreds is unlucky. Further ones begin elsewhere.
    """
    for is_first in (True, False, False, False, False):
        chosen = settings(
            _settings(num_examples, num_steps),
            phases=(Phase.generate,),
            derandomize=is_first,
            database=None,
            report_multiple_bugs=False,
            print_blob=False,
        )
        try:
            run_state_machine_as_test(machine, settings=chosen)
        except errors as found:
            if re.search(problem, str(found)):
                return
            raise
    pytest.fail(f"nobody found that {problem}")
