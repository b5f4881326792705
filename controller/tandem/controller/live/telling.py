"""Which rounds become records of the decision log, and as what. Pure.

A round that only repeats the one before would push the requests' own records out of a router's bounded memory.
"""

import re
from typing import Final

from tandem.controller.deciding.decide import describe
from tandem.controller.deciding.values import DecisionRecord, Verdict
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


SAME_FOR_S: Final = 30.0
_NUMBER = re.compile(r"\d+(\.\d+)?")


class News:
    """Tells rounds that say something new from repetitions; every ``SAME_FOR_S`` one of those is told all the same.

    New is another term, policy, verdict, split, wish, advice or share to borrow, any move that is made, or another
    reason or clamp; of the last two only the words count, since the numbers in them differ from round to round.
    """

    def __init__(self) -> None:
        self._said: tuple[object, ...] = ()
        self._said_s = float("-inf")

    def is_new(self, record: DecisionRecord, *, term: int, now_s: float) -> bool:
        """Whether to tell of this round; what is to be told counts as said."""
        said = (
            term,
            record.policy,
            record.verdict,
            record.current,
            record.wished,
            record.move,
            f"{record.borrow_share:.2f}",
            *(_NUMBER.sub("#", words) for words in (record.reason, *record.clamps)),
        )
        if record.verdict is not Verdict.MOVE and said == self._said and now_s - self._said_s < SAME_FOR_S:
            return False
        self._said, self._said_s = said, now_s
        return True
