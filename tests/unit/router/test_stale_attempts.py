"""What the same two workers say late about an earlier attempt does nothing to the attempt that runs on them now."""

import pytest

from tandem.core import reasons
from tandem.core.messages import RequestEvent
from tandem.router.actions import WorkerKey
from tests.unit.router.builders import D, P
from tests.unit.router.ledgers import failed, granted, handed_over, prefill_done, released, running, stage_of

EVENTS = [
    (P, failed(reasons.KV_TIMEOUT)),
    (D, failed(reasons.KV_TIMEOUT)),
    (P, prefill_done()),
    (D, granted()),
    (D, handed_over()),
    (D, released()),
]


@pytest.mark.parametrize(("source", "event"), EVENTS, ids=lambda value: type(value).__name__)
def test_a_report_of_an_earlier_attempt_has_no_effect(source: WorkerKey, event: RequestEvent) -> None:
    ledger = running()
    ledger.on_event(D, failed(reasons.NO_BLOCKS), 2.0)
    ledger.dispatched(prefill=P, decode=D, now_s=2.0)
    attempt, stage = ledger.attempt, stage_of(ledger)
    assert attempt is not None
    assert attempt.number == 1
    assert not any(ledger.on_event(source, event, 3.0) for _ in range(2))
    assert ledger.attempt is attempt
    assert (stage_of(ledger), attempt.released_at_s, attempt.open_sides) == (stage, None, {P, D})
