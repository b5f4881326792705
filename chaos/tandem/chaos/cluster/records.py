"""What came of requests: outcome, tokens against the oracle's, times. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from tandem.chaos.cluster.specs import RequestSpec
from tandem.chaos.tagged.expected import ExpectedChild
from tandem.core.inference import ServedBy
from tandem.core.types import FinishReason


class Ending(StrEnum):
    """How a request ended, as its caller saw it."""

    OK = "ok"
    CANCELLED = "cancelled"  # by the caller
    ERROR = "error"  # a named error
    HANG = "hang"  # not over by deadline + 1 s
    BROKEN = "broken"  # an error that is none of Tandem's: a defect of the client


class Verdict(StrEnum):
    """The tokens against the oracle's."""

    EQUAL = "equal"  # all of them, texts and finish reasons too
    PREFIX = "prefix"  # what was emitted before an early end is right
    WRONG = "wrong"


@dataclass(slots=True, kw_only=True)
class ChildRecord:
    """What one sequence said."""

    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    finish_reason: FinishReason | None = None
    matched_stop: str | None = None
    num_gaps: int = 0  # deltas whose position was not the next one: gaps or repeats


@dataclass(slots=True, kw_only=True)
class RequestRecord:
    """Everything known of one request. Times are CLOCK_MONOTONIC of this process, so comparable on one host."""

    spec: RequestSpec
    began_s: float
    traceparent: str = ""  # by which the router's event log names it, even if it never answered
    request_id: str = ""  # empty when it ended before the router named it; `name_requests` finds it in the log
    ending: Ending = Ending.HANG
    error: str = ""  # class of the error
    reason: str = ""  # stable reason of the error
    message: str = ""
    retryable: bool = False
    children: dict[int, ChildRecord] = field(default_factory=dict)
    first_token_s: float | None = None
    last_token_s: float | None = None
    longest_gap_s: float = 0.0  # between two events that carried tokens
    stood_still_s: float = 0.0  # how long it read nothing
    cancelled_s: float | None = None  # when the cancel left
    ended_s: float | None = None
    attempts: int = 0  # 0 where nobody said
    workers: ServedBy | None = None
    verdict: Verdict = Verdict.PREFIX
    problem: str = ""  # what is wrong with the tokens

    @property
    def was_in_time(self) -> bool:
        """Whether it ended by its deadline plus one second."""
        return self.ended_s is not None and self.ended_s - self.began_s <= self.spec.deadline_s + 1.0

    @property
    def num_tokens(self) -> int:
        """Tokens that arrived, over all sequences."""
        return sum(len(child.token_ids) for child in self.children.values())


def judge(record: RequestRecord, expected: Sequence[ExpectedChild]) -> None:
    """Set the record's verdict: what arrived must be the answer, or, after an early end, its beginning."""
    problem = next(
        (
            text
            for index, child in sorted(record.children.items())
            if (text := _problem(record, index, child, expected))
        ),
        "",
    )
    if not problem and record.ending is Ending.OK and len(record.children) != len(expected):
        problem = f"{len(record.children)} of {len(expected)} sequences came"
    record.problem = problem
    if problem:
        record.verdict = Verdict.WRONG
    else:
        record.verdict = Verdict.EQUAL if record.ending is Ending.OK else Verdict.PREFIX


def _problem(record: RequestRecord, index: int, child: ChildRecord, expected: Sequence[ExpectedChild]) -> str:
    if index >= len(expected):
        return f"sequence {index} was never asked for"
    right = expected[index]
    said = tuple(child.token_ids)
    if child.num_gaps:
        return f"sequence {index}: {child.num_gaps} deltas at a wrong position"
    if said != right.token_ids[: len(said)]:
        place = next(
            i for i, (a, b) in enumerate(zip(said, (*right.token_ids, *[-1] * len(said)), strict=False)) if a != b
        )
        return f"sequence {index}: token {place} is wrong"
    if not right.text.startswith(child.text):
        return f"sequence {index}: the text is wrong: {child.text!r}, not {right.text!r}"
    if child.finish_reason is None and record.ending is not Ending.OK:
        return ""
    found = (len(said), child.text, child.finish_reason, child.matched_stop)
    must = (len(right.token_ids), right.text, right.finish_reason, right.matched_stop)
    return "" if found == must else f"sequence {index}: ended as {found}, not as {must}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Counts over records."""

    num_requests: int
    num_ok: int
    num_cancelled: int
    num_errors: int
    num_hangs: int
    num_broken: int
    wrong_tokens: int
    reasons: Mapping[str, int]  # of errors
    num_tokens: int
    problems: tuple[str, ...]  # the first few


def summarise(records: Iterable[RequestRecord]) -> Summary:
    """Count."""
    records = list(records)
    endings = Counter(record.ending for record in records)
    return Summary(
        num_requests=len(records),
        num_ok=endings[Ending.OK],
        num_cancelled=endings[Ending.CANCELLED],
        num_errors=endings[Ending.ERROR],
        num_hangs=sum(record.ending is Ending.HANG or not record.was_in_time for record in records),
        num_broken=endings[Ending.BROKEN],
        wrong_tokens=sum(record.verdict is Verdict.WRONG for record in records),
        reasons=dict(Counter(record.reason for record in records if record.ending is Ending.ERROR)),
        num_tokens=sum(record.num_tokens for record in records),
        problems=tuple(f"{r.spec.label}: {r.problem}" for r in records if r.verdict is Verdict.WRONG)[:10],
    )
