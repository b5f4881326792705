"""What came of a scenario: promises kept, moves, roles, requests lost. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.controller_world.load import Phase, phase_of
from benchmarks.controller_world.policies import ATTAINMENT, TPOT_S, TTFT_S
from benchmarks.controller_world.units import Told
from benchmarks.controller_world.world import Sample
from tandem.chaos.cluster import Ending, RequestRecord, Verdict
from tandem.core.types import Role

WINDOW_S = 60.0
_SHOWN = {
    "standard.rate_per_s": "rate", "stress": "stress", "stress_lent": "lent", "stress_sure": "sure",
    "stress_wished": "wished", "prefill_busy": "P", "decode_busy": "D", "backlog_s": "backlog", "open": "open",
    "left_tokens": "left",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One scenario."""

    name: str
    begin_s: float
    seconds: float
    records: Sequence[RequestRecord]
    rounds: Sequence[Told]
    samples: Sequence[Sample]
    switched_s: Sequence[float]  # when a worker was seen in another role than before
    phases: Sequence[Phase]
    damped: bool = True  # under the cool-down of 60 s
    facts: dict[str, Any] = field(default_factory=dict)

    def phase(self, index: int) -> dict[str, Any]:
        """What came of one phase: kept, in all and by thirds of its arrivals; the moves until the split stayed."""
        phase, begin_s = self.phases[index], sum(each.seconds for each in self.phases[:index])
        own = [record for record in self.records if phase_of(record.spec) == index]
        thirds = [
            [r for r in own if int(3 * (r.spec.start_after_s - begin_s) / phase.seconds) == third] for third in range(3)
        ]
        begin_s += self.begin_s
        end_s = begin_s + phase.seconds if index + 1 < len(self.phases) else float("inf")
        moves = [one for one in self.moves if begin_s <= one.at_s < end_s]
        return {
            "name": phase.name,
            "seconds": round(phase.seconds, 1),
            "attainment": attainment(own),
            "attainment_by_third": [attainment(third) for third in thirds],
            "moves": len(moves),
            "last_move_s": round(moves[-1].at_s - begin_s, 1) if moves else None,
            "converged": (attainment(thirds[-1]) or 0.0) >= ATTAINMENT,
        }

    @property
    def moves(self) -> list[Told]:
        """Rounds that began a move."""
        return [one for one in self.rounds if one.move]

    def summary(self) -> dict[str, Any]:
        """What is printed of it."""
        return {
            "name": self.name,
            "seconds": round(self.seconds, 1),
            "requests": len(self.records),
            "lost": len(lost(self.records)),
            "attainment": attainment(self.records),
            "phases": [self.phase(index) for index in range(len(self.phases))],
            "moves": [f"{one.at_s - self.begin_s:.0f} s: {one.move}" for one in self.moves],
            "repairs": [f"{one.at_s - self.begin_s:.0f} s: {one.repair}" for one in self.rounds if one.repair],
            "workers_switched": len(self.switched_s),
            "most_workers_per_min": most_per_window(self.switched_s),
            "most_moves_per_min": most_per_window([one.decided_s for one in self.moves]),
            "role_emptied": sum(not sample.count(role) for sample in self.samples for role in Role),
            "splits": splits(self.samples),
            "borrowed": round(max((float(o.facts.get("borrow_share", 0)) for o in self.rounds), default=0.0), 2),
            **self.facts,
        }


def lost(records: Sequence[RequestRecord]) -> list[RequestRecord]:
    """Requests without their whole and right answer."""
    return [r for r in records if r.ending is not Ending.OK or r.verdict is not Verdict.EQUAL]


def attainment(records: Sequence[RequestRecord]) -> float | None:
    """Share of requests that kept every promise; None = there were none."""
    if not records:
        return None
    return round(sum(keeps(record) for record in records) / len(records), 3)


def keeps(record: RequestRecord) -> bool:
    """Whether a request got its first token and its others in time."""
    if record.ending is not Ending.OK or record.first_token_s is None or record.last_token_s is None:
        return False
    if record.first_token_s - record.began_s > TTFT_S:
        return False
    return record.last_token_s - record.first_token_s <= TPOT_S * max(record.num_tokens - 1, 1)


def most_per_window(times: Sequence[float], window_s: float = WINDOW_S) -> int:
    """Most events within any window."""
    return max((sum(begin <= at < begin + window_s for at in times) for begin in times), default=0)


def splits(samples: Sequence[Sample]) -> list[str]:
    """The splits that were seen, repeats left out."""
    found: list[str] = []
    for sample in samples:
        if not found or found[-1] != sample.split:
            found.append(sample.split)
    return found


def compact(outcome: Outcome) -> list[str]:
    """The controller's rounds in a line each; of those that say the same one in five seconds."""
    lines: list[str] = []
    said: tuple[object, ...] = ()
    said_s = float("-inf")
    for one in outcome.rounds:
        facts, numbers = one.facts, one.facts.get("numbers", {})
        says = (one.verdict, facts.get("current"), facts.get("wished"), facts.get("move"), bool(facts.get("clamps")))
        if says == said and one.at_s < said_s + 5.0:
            continue
        said, said_s = says, one.at_s
        shown = " ".join(f"{short} {numbers[name]:g}" for name, short in _SHOWN.items() if name in numbers)
        why = one.move or one.repair or "; ".join(facts.get("clamps", ()))
        lines.append(
            f"{one.at_s - outcome.begin_s:.0f} s {one.verdict} {facts.get('current')}>{facts.get('wished')}"
            f" borrow {facts.get('borrow_share')} {shown} {why}".rstrip()
        )
    return lines
