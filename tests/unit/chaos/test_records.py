"""The verdict on a request: equal, a right beginning, or wrong."""

from typing import Any

import pytest

from tandem.chaos.cluster.records import ChildRecord, Ending, RequestRecord, Verdict, judge, summarise
from tandem.chaos.cluster.specs import RequestSpec, random_specs
from tandem.chaos.tagged.expected import ExpectedChild
from tandem.core.types import FinishReason

RIGHT = ExpectedChild(token_ids=(7, 8, 9), text="abc", finish_reason=FinishReason.LENGTH, matched_stop=None)


def _record(ending: Ending = Ending.OK, **child: object) -> RequestRecord:
    fields = {"token_ids": [7, 8, 9], "text": "abc", "finish_reason": FinishReason.LENGTH} | child
    record = RequestRecord(spec=RequestSpec(prompt=(5,)), began_s=0.0, ending=ending, ended_s=1.0)
    record.children[0] = ChildRecord(**fields)  # type: ignore[arg-type]
    return record


def _verdict(record: RequestRecord) -> Verdict:
    judge(record, [RIGHT])
    return record.verdict


def test_the_whole_answer_is_equal() -> None:
    assert _verdict(_record()) is Verdict.EQUAL


@pytest.mark.parametrize("ending", [Ending.CANCELLED, Ending.ERROR, Ending.HANG])
def test_a_right_beginning_before_an_early_end(ending: Ending) -> None:
    assert _verdict(_record(ending, token_ids=[7], text="a", finish_reason=None)) is Verdict.PREFIX
    assert _verdict(_record(ending)) is Verdict.PREFIX  # the answer was whole when the end came


@pytest.mark.parametrize(
    "child",
    [
        {"token_ids": [7, 8, 10]},
        {"token_ids": [7, 8]},
        {"token_ids": [7, 8, 9, 9]},
        {"text": "abd"},
        {"text": "ab"},
        {"finish_reason": FinishReason.STOP},
        {"finish_reason": None},
        {"matched_stop": "c"},
        {"num_gaps": 1},
    ],
)
def test_anything_else_is_wrong(child: dict[str, Any]) -> None:
    record = _record(**child)
    assert _verdict(record) is Verdict.WRONG
    assert record.problem
    assert summarise([record]).wrong_tokens == 1


@pytest.mark.parametrize("child", [{"token_ids": [8]}, {"text": "b"}, {"num_gaps": 1}, {"token_ids": [7, 8, 9, 1]}])
def test_a_wrong_beginning_is_wrong_even_after_a_cancel(child: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"token_ids": [7], "text": "a", "finish_reason": None} | child
    assert _verdict(_record(Ending.CANCELLED, **fields)) is Verdict.WRONG


def test_missing_and_unasked_sequences_are_wrong() -> None:
    missing = _record()
    judge(missing, [RIGHT, RIGHT])
    assert missing.verdict is Verdict.WRONG
    unasked = _record()
    unasked.children[3] = ChildRecord()
    assert _verdict(unasked) is Verdict.WRONG


def test_late_and_never_are_hangs() -> None:
    late, never, in_time = _record(), _record(Ending.HANG), _record()
    late.ended_s, never.ended_s = 31.5, None
    in_time.ended_s = 30.5
    assert summarise([late, never, in_time]).num_hangs == 2


def test_random_specs_are_a_function_of_their_seed_and_cover_the_mix() -> None:
    specs = random_specs(400, seed=3, tenants=("a", "b"), cancel_share=0.6)
    assert specs == random_specs(400, seed=3, tenants=("a", "b"), cancel_share=0.6)
    assert specs != random_specs(400, seed=4, tenants=("a", "b"), cancel_share=0.6)
    assert {spec.tenant for spec in specs} == {"a", "b"}
    assert {spec.n for spec in specs} == {1, 2, 3}
    assert {len(spec.prompt) % 16 for spec in specs} == {15, 0, 1}
    assert {spec.sampling.temperature == 0.0 for spec in specs} == {True, False}
    assert 0.5 < sum(spec.cancel_after_s is not None for spec in specs) / 400 < 0.7
