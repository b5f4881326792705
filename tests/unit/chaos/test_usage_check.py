"""L7 finds what is booked twice, not at all, or with other tokens than the caller got."""

from pathlib import Path

from tandem.chaos.cluster.records import ChildRecord, Ending, RequestRecord
from tandem.chaos.cluster.specs import RequestSpec
from tandem.chaos.leaks.usage import check_usage
from tandem.core.event_log.events import Event, LogClosed, RequestAccepted, RequestEnded, TokensForwarded, UsageRecorded
from tandem.core.event_log.record import LineEncoder, ProcessLife

ACCEPTED = RequestAccepted(request="r", num_sequences=1)
FORWARDED = TokensForwarded(request="r", child=0, position=0, count=3)
ENDED = RequestEnded(request="r", outcome="ok", reason="", num_output_tokens=3)
BOOKED = UsageRecorded(request="r", num_prompt_tokens=2, num_output_tokens=3)
WHOLE: list[Event] = [ACCEPTED, FORWARDED, ENDED, BOOKED]


def _log(folder: Path, *events: Event, name: str = "router-1.jsonl") -> Path:
    encoder, buffer = LineEncoder(ProcessLife("router-0", 1)), bytearray()
    for index, event in enumerate(events):
        encoder.append(buffer, float(index), event)
    path = folder / name
    path.write_bytes(buffer)
    return path


def _record(num_tokens: int = 3, ending: Ending = Ending.OK, request_id: str = "r") -> RequestRecord:
    record = RequestRecord(spec=RequestSpec(prompt=(5, 6)), began_s=0.0, request_id=request_id, ending=ending)
    record.children[0] = ChildRecord(token_ids=[7] * num_tokens)
    return record


def test_booked_once_with_the_right_tokens(tmp_path: Path) -> None:
    assert check_usage([_log(tmp_path, *WHOLE, LogClosed())], [_record()]) == []
    assert check_usage([_log(tmp_path, *WHOLE)], [_record(1, Ending.CANCELLED)]) == []


def test_booked_twice(tmp_path: Path) -> None:
    problems = check_usage([_log(tmp_path, *WHOLE, BOOKED)])
    assert len(problems) == 1
    assert "booked 2 times" in problems[0]


def test_not_booked(tmp_path: Path) -> None:
    assert "was not booked" in check_usage([_log(tmp_path, ACCEPTED, FORWARDED, ENDED)])[0]


def test_booked_with_other_tokens_than_were_forwarded(tmp_path: Path) -> None:
    wrong = UsageRecorded(request="r", num_prompt_tokens=2, num_output_tokens=4)
    assert "was given 3" in check_usage([_log(tmp_path, ACCEPTED, FORWARDED, ENDED, wrong)])[0]


def test_booked_with_other_tokens_than_the_caller_saw(tmp_path: Path) -> None:
    assert "not as (2, 2)" in check_usage([_log(tmp_path, *WHOLE)], [_record(2)])[0]


def test_ended_twice_and_never(tmp_path: Path) -> None:
    assert "ended 2 times" in check_usage([_log(tmp_path, *WHOLE, ENDED)])[0]
    assert "never ended" in check_usage([_log(tmp_path, ACCEPTED, LogClosed())])[0]


def test_answered_and_in_no_book(tmp_path: Path) -> None:
    assert "answered and not booked" in check_usage([_log(tmp_path, *WHOLE)], [_record(request_id="other")])[0]


def test_a_killed_router_owes_its_last_requests(tmp_path: Path) -> None:
    path = _log(tmp_path, ACCEPTED, FORWARDED)
    path.write_bytes(path.read_bytes() + b'{"process":"rou')
    assert check_usage([path], [_record()]) == []
