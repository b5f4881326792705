"""A round as a record of the decision log. Pure."""

from tandem.controller.deciding.decide import describe
from tandem.controller.deciding.values import DecisionRecord
from tandem.core.decisions import ControllerRound, Decision


def decision_of(record: DecisionRecord, *, term: int, source: str) -> Decision:
    """Return the record; whoever keeps it gives it its number."""
    return Decision(
        sequence=0,
        unix_s=record.time_s,
        source=source,
        reason=record.reason,
        detail=ControllerRound(
            term=term,
            policy=record.policy,
            verdict=record.verdict.value,
            current_prefill=record.current.prefill,
            current_decode=record.current.decode,
            wished_prefill=None if record.wished is None else record.wished.prefill,
            wished_decode=None if record.wished is None else record.wished.decode,
            move="" if record.move is None else describe(record.move),
            borrow_share=record.borrow_share,
            clamps=record.clamps,
            numbers=record.numbers,
        ),
    )
