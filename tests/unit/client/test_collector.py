"""Putting a stream's events together."""

import pytest

from tandem.client import (
    FailedPrecondition,
    FinishReason,
    OutputDelta,
    SequenceFinished,
    StreamCompleted,
    StreamStarted,
)
from tandem.client.collector import Collector
from tandem.core.ids import RequestId, WorkerId
from tandem.core.inference import KeepAlive, ServedBy, StreamEvent
from tandem.core.types import PhaseTimings, PositionLogprobs, TokenLogprob, Usage

STARTED = StreamStarted(request_id=RequestId("r"), prompt_tokens=3, cached_tokens=1)
COMPLETED = StreamCompleted(
    usage=Usage(prompt_tokens=3, cached_tokens=1, output_tokens=4),
    timings=PhaseTimings(ttft_ms=5.0),
    workers=ServedBy(prefill_worker=WorkerId("p"), decode_worker=WorkerId("d")),
    attempts=2,
)
LOGPROBS = (PositionLogprobs(chosen=TokenLogprob(token_id=1, logprob=-0.5)),)


def _delta(index: int, position: int, text: str, *token_ids: int) -> OutputDelta:
    return OutputDelta(index=index, position=position, text=text, token_ids=token_ids)


def _finished(index: int) -> SequenceFinished:
    return SequenceFinished(index=index, finish_reason=FinishReason.LENGTH)


def _collect(*events: StreamEvent) -> Collector:
    collector = Collector()
    for event in events:
        collector.add(event)
    return collector


def test_interleaved_sequences_come_apart() -> None:
    result = _collect(
        STARTED,
        _delta(1, 0, "x", 7),
        _delta(0, 0, "a", 1, 2),
        KeepAlive(),
        _delta(0, 2, "b", 3),
        _finished(1),
        _finished(0),
        COMPLETED,
    ).result()
    assert [(s.index, s.text, s.token_ids) for s in result.sequences] == [(0, "ab", (1, 2, 3)), (1, "x", (7,))]
    assert (result.request_id, result.attempts, result.usage) == ("r", 2, COMPLETED.usage)
    assert (result.timings, result.workers) == (COMPLETED.timings, COMPLETED.workers)


def test_logprobs_are_kept() -> None:
    delta = OutputDelta(index=0, position=0, text="a", token_ids=(1,), logprobs=LOGPROBS)
    assert _collect(STARTED, delta, _finished(0), COMPLETED).result().sequences[0].logprobs == LOGPROBS


def test_held_back_text_may_come_without_a_token() -> None:
    events = [_delta(0, 0, "", 1), _delta(0, 1, "", 2), _delta(0, 2, "é")]
    assert _collect(STARTED, *events, _finished(0), COMPLETED).result().text == "é"


def test_a_sequence_without_output_is_still_there() -> None:
    result = _collect(STARTED, _finished(0), COMPLETED).result()
    assert (result.text, result.token_ids, result.finish_reason) == ("", (), FinishReason.LENGTH)


@pytest.mark.parametrize("position", [0, 1, 3])
def test_a_gap_or_a_repeat_is_an_error(position: int) -> None:
    """Doubtful tokens are never passed on as an answer."""
    collector = _collect(STARTED, _delta(0, 0, "ab", 1, 2))
    with pytest.raises(FailedPrecondition) as caught:
        collector.add(_delta(0, position, "c", 3))
    assert caught.value.reason == "STREAM_GAP"


def test_a_first_delta_that_does_not_begin_at_zero_is_an_error() -> None:
    with pytest.raises(FailedPrecondition):
        _collect(STARTED, _delta(0, 1, "b", 2))


def test_an_incomplete_stream_has_no_result() -> None:
    for events in ([], [STARTED, _finished(0)], [COMPLETED]):
        with pytest.raises(FailedPrecondition, match="has not completed"):
            _collect(*events).result()
