"""The event log: what every process of a cluster did with blocks, hand-overs and requests, for a checker to judge.

Switched on by ``observability.event_log`` in `cluster.yaml` (or ``event_log`` of a router's or worker's own
configuration): a folder, into which each process life writes one file ``<process>-<epoch>.jsonl``. To judge a run::

    python -m tandem.chaos.trace FOLDER          # a table, exit status 1 when an invariant was broken

    from tandem.chaos.trace import check         # the same in a test
    report = check([folder])
    assert report.violations == [] and report.is_complete

Code that produces events takes an ``EventSink | None`` and asks ``if sink is not None`` before it makes one, so that a
process without a log pays one comparison. A simulation hands the same events to `tandem.chaos.trace.Checker.feed`.
"""

from tandem.core.event_log.events import Event
from tandem.core.event_log.writer import EventLog, EventSink, open_event_log

__all__ = ["Event", "EventLog", "EventSink", "open_event_log"]
