"""Judges what processes did by their event logs: the invariants I1 to I8 of the hand-over's design.

- I1 a decode step reads only COMMITTED blocks of its own request and attempt, in their present generation
- I2 no chunk is accepted that names an old generation or epoch, or a block that is not the hand-over's to fill
- I3 allocation and freeing of a block alternate, and its generations grow
- I4 exactly one terminal event per request, and its usage recorded once
- I5 the positions of a child's tokens are 0, 1, 2, … without gap or repeat
- I6 a block's pins are never negative, and 0 when it becomes free
- I7 at least one worker of each role serves (``excused`` says when a run itself took all of them away)
- I8 every grant ends by its deadline + 1 s of its own process's clock, unless the process died

On files, from a shell (exit status 0 good, 1 broken invariants, 2 incomplete logs)::

    python -m tandem.chaos.trace FOLDER-OR-FILES [--json] [--no-serving]

on files, in a test::

    report = check([folder])
    assert report.violations == [] and report.is_complete
    assert report.num_checks["I1"] > 0  # there was something to check

and on events as they happen, e.g. in a simulation (``ProcessLife`` is from `tandem.core.event_log.record`)::

    checker = Checker()
    checker.feed(ProcessLife("decode-0", epoch), event, at_s=clock.now_s())  # LogClosed() when a process ends in order
    report = checker.finish()

The objects of one process must be fed in the order in which they happened there. Nothing is assumed about the clocks of
two processes, but for I7: it goes by the order of feeding, and files are merged by time only if all are of one machine.
"""

from tandem.chaos.trace.checker import Checker
from tandem.chaos.trace.reader import check
from tandem.chaos.trace.report import Report, UnfinishedLog, Violation
from tandem.chaos.trace.roles import Excused

__all__ = ["Checker", "Excused", "Report", "UnfinishedLog", "Violation", "check"]
