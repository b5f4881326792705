"""The buffer between dispatcher and caller: coalescing, bounds, wake-ups; and the collector."""

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.core.errors import Cancelled, InternalError
from tandem.core.inference import KeepAlive, OutputDelta, SequenceFinished, StreamCompleted, StreamStarted
from tandem.core.types import FinishReason, Outcome, PhaseTimings, PositionLogprobs, TokenLogprob, Usage
from tandem.router.actions import Ended, Started
from tandem.router.client_stream import ClientStream, Collector, Overflow, StreamBounds, coalesce
from tests.unit.router.builders import REQUEST, make_delta, text_of, token_of

BOUNDS = StreamBounds(max_tokens=4, max_bytes=1000)


def make_ended(error: Cancelled | None = None) -> Ended:
    return Ended(
        outcome=Outcome.OK if error is None else Outcome.CANCELLED,
        error=error,
        usage=Usage(prompt_tokens=1, cached_tokens=0, output_tokens=2),
        timings=PhaseTimings(),
        prefill_worker_id="p",
        decode_worker_id="d",
        num_attempts=1,
    )


def test_one_delta_leaves_as_it_is() -> None:
    stream = ClientStream(REQUEST, BOUNDS)
    stream.put_delta(make_delta(0))
    (event,) = stream.take().events
    assert event == OutputDelta(index=0, position=0, text=text_of(0, 0), token_ids=(0,))
    assert stream.take().events == []


def test_what_piled_up_leaves_as_one_delta_per_sequence() -> None:
    events = coalesce([make_delta(0), make_delta(0, child=1), make_delta(1), make_delta(1, child=1)])
    assert [type(event) for event in events] == [OutputDelta, OutputDelta]
    assert [getattr(event, "token_ids", None) for event in events] == [(0, 1), (1000, 1001)]


def test_logprobs_are_joined_too() -> None:
    at = PositionLogprobs(chosen=TokenLogprob(token_id=1, logprob=-0.5))
    deltas = [make_delta(0), make_delta(1)]
    deltas = [type(d)(**{f: getattr(d, f) for f in d.__slots__} | {"logprobs": (at,)}) for d in deltas]
    (event,) = coalesce(deltas)
    assert isinstance(event, OutputDelta)
    assert event.logprobs == (at, at)


def test_the_end_of_a_sequence_follows_its_last_delta() -> None:
    events = coalesce([make_delta(0), make_delta(1, finish=FinishReason.STOP)])
    assert isinstance(events[0], OutputDelta)
    assert events[1] == SequenceFinished(index=0, finish_reason=FinishReason.STOP)


def test_an_end_without_output_is_no_empty_delta() -> None:
    events = coalesce([make_delta(1, num_tokens=0, finish=FinishReason.STOP, text="")])
    assert [type(event) for event in events] == [SequenceFinished]


@given(st.lists(st.integers(0, 2), max_size=30))
def test_coalescing_loses_nothing(children: list[int]) -> None:
    positions = [0, 0, 0]
    deltas = []
    for child in children:
        deltas.append(make_delta(positions[child], child=child))
        positions[child] += 1
    seen: dict[int, list[int]] = {}
    texts: dict[int, str] = {}
    for event in coalesce(deltas) if deltas else []:
        assert isinstance(event, OutputDelta)
        assert event.position == len(seen.get(event.index, []))
        seen.setdefault(event.index, []).extend(event.token_ids)
        texts[event.index] = texts.get(event.index, "") + event.text
    assert seen == {c: [token_of(c, p) for p in range(positions[c])] for c in range(3) if positions[c]}
    assert texts == {c: "".join(text_of(c, p) for p in range(positions[c])) for c in range(3) if positions[c]}


def test_started_comes_first_and_completed_last() -> None:
    stream = ClientStream(REQUEST, BOUNDS)
    stream.put_delta(make_delta(0, finish=FinishReason.STOP))
    stream.put_started(Started(num_prompt_tokens=5, num_cached_tokens=2))
    stream.put_ended(make_ended())
    taken = stream.take()
    assert [type(event) for event in taken.events] == [StreamStarted, OutputDelta, SequenceFinished, StreamCompleted]
    assert taken.ended is not None


def test_a_keep_alive_is_sent_only_when_nothing_else_is() -> None:
    stream = ClientStream(REQUEST, BOUNDS)
    stream.put_keep_alive()
    assert stream.take().events == [KeepAlive()]
    stream.put_keep_alive()
    stream.put_delta(make_delta(0))
    assert [type(event) for event in stream.take().events] == [OutputDelta]
    assert stream.take().events == []


def test_a_caller_that_holds_up_a_write_may_be_behind_by_the_bound() -> None:
    stream = ClientStream(REQUEST, BOUNDS)
    stream.take()  # the writer now writes
    for position in range(4):
        stream.put_delta(make_delta(position))
    with pytest.raises(Overflow):
        stream.put_delta(make_delta(4))
    assert stream.overflowed


def test_bytes_count_as_well_as_tokens() -> None:
    stream = ClientStream(REQUEST, BOUNDS)
    stream.take()
    with pytest.raises(Overflow):
        stream.put_delta(make_delta(0, text="x" * 1001))


async def test_a_burst_is_not_blamed_on_a_caller_who_had_no_turn() -> None:
    stream = ClientStream(REQUEST, BOUNDS)
    waiting = asyncio.ensure_future(stream.wait())
    await asyncio.sleep(0)
    for position in range(64):
        stream.put_delta(make_delta(position))
    with pytest.raises(Overflow):  # but that has a bound as well
        stream.put_delta(make_delta(64))
    await waiting


def test_a_failure_drops_what_waits_and_frees_a_writer_that_hangs() -> None:
    called: list[int] = []
    stream = ClientStream(REQUEST, BOUNDS, on_overflow=lambda: called.append(1))
    stream.take()
    with pytest.raises(Overflow):
        stream.put_delta(make_delta(0, num_tokens=5))
    stream.put_ended(make_ended(Cancelled("slow")))
    assert called == [1]
    taken = stream.take()
    assert taken.events == []
    assert taken.ended is not None


async def test_wait_returns_when_something_is_put() -> None:
    puts: list[Callable[[ClientStream], None]] = [
        lambda s: s.put_started(Started(num_prompt_tokens=1, num_cached_tokens=0)),
        lambda s: s.put_delta(make_delta(0)),
        lambda s: s.put_keep_alive(),
        lambda s: s.put_ended(make_ended()),
    ]
    for put in puts:
        stream = ClientStream(REQUEST, BOUNDS)
        waiting = asyncio.ensure_future(stream.wait())
        await asyncio.sleep(0)
        assert not waiting.done()
        put(stream)
        await asyncio.wait_for(waiting, 1.0)
        await asyncio.wait_for(stream.wait(), 1.0)  # and again while it has not been taken


async def test_a_cancelled_waiter_does_not_disturb_a_put() -> None:
    stream = ClientStream(REQUEST, BOUNDS)
    waiting = asyncio.ensure_future(stream.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    stream.put_delta(make_delta(0))
    stream.put_ended(make_ended())


async def test_the_collector_gathers_every_sequence() -> None:
    collector = Collector(REQUEST, 2)
    for child in (0, 1):
        collector.put_delta(make_delta(0, child=child))
        collector.put_delta(make_delta(1, child=child, finish=FinishReason.LENGTH))
    collector.put_ended(make_ended())
    answer = await collector.result()
    assert [s.token_ids for s in answer.sequences] == [(0, 1), (1000, 1001)]
    assert answer.sequences[1].text == text_of(1, 0) + text_of(1, 1)
    assert answer.workers.prefill_worker == "p"


async def test_the_collector_raises_the_error_of_its_request() -> None:
    collector = Collector(REQUEST, 1)
    collector.put_ended(make_ended(Cancelled("gone")))
    with pytest.raises(Cancelled):
        await collector.result()


async def test_a_completed_request_without_an_end_is_a_defect() -> None:
    collector = Collector(REQUEST, 1)
    collector.put_delta(make_delta(0))
    collector.put_ended(make_ended())
    with pytest.raises(InternalError):
        await collector.result()
