"""What came of a scenario: promises kept, moves, roles, requests lost. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.controller_world.load import phase_of
from benchmarks.controller_world.policies import TPOT_S, TTFT_S
from benchmarks.controller_world.units import Told
from benchmarks.controller_world.world import Sample
from tandem.chaos.cluster import Ending, RequestRecord, Verdict
from tandem.core.types import Role

WINDOW_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One scenario."""

    name: str
    seconds: float
    records: Sequence[RequestRecord]
    rounds: Sequence[Told]
    samples: Sequence[Sample]
    num_switched: int  # workers seen in another role
    phases: Sequence[str]
    damped: bool = True  # under the cool-down of 60 s
    facts: dict[str, Any] = field(default_factory=dict)

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
            "attainment_by_phase": {
                f"{index}: {name}": attainment([r for r in self.records if phase_of(r.spec) == index])
                for index, name in enumerate(self.phases)
            },
            "attainment_at_the_end": attainment(_last_third(self.records, len(self.phases) - 1)),
            "moves": [one.move for one in self.moves],
            "workers_switched": self.num_switched,
            "most_moves_per_min": most_per_window([one.at_s for one in self.moves]),
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


def _last_third(records: Sequence[RequestRecord], phase: int) -> list[RequestRecord]:
    own = sorted((r for r in records if phase_of(r.spec) == phase), key=lambda r: r.began_s)
    return own[-max(len(own) // 3, 1) :]
