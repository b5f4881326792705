"""Plays one caller: sends a request through the SDK, reads, cancels when told to, records what it sees."""

import asyncio
import secrets
import time
from collections.abc import Callable

from opentelemetry import trace

from tandem.chaos.cluster.records import ChildRecord, Ending, RequestRecord
from tandem.chaos.cluster.specs import RequestSpec
from tandem.client import AsyncClient
from tandem.core.errors import TandemError
from tandem.core.inference import OutputDelta, SequenceFinished, StreamCompleted, StreamEvent, StreamStarted
from tandem.rpc.trace import traceparent_of

_GRACE_S = 1.0
"""After the deadline; a request that is not over then hangs."""
_FIRST_TOKENS = 5


class _Leaves(Exception):
    """The caller has seen enough and leaves."""


async def call(
    client: AsyncClient, spec: RequestSpec, *, begun: Callable[[RequestRecord], None] | None = None
) -> RequestRecord:
    """Run one request to its end, whatever it is; never raises for what the server does.

    ``begun`` gets the record before anything is sent, for who wants to watch, or to cancel by ending the task: the
    caller then leaves, and the record says so, unless its answer was whole already.
    """
    span = _new_span()
    record = RequestRecord(spec=spec, began_s=time.monotonic(), traceparent=traceparent_of(span))
    if begun is not None:
        begun(record)
    try:
        with trace.use_span(span, end_on_exit=False):
            await _within_deadline(client, record)
    except TimeoutError:
        record.ending = Ending.HANG
    except TandemError as error:
        record.ending = Ending.ERROR
        record.error, record.reason = type(error).__name__, error.reason
        record.message, record.retryable = error.message, error.retryable
    except Exception as error:  # noqa: BLE001 - anything else is a finding, and the other callers go on
        record.ending = Ending.BROKEN
        record.error, record.message = type(error).__name__, str(error)
    except asyncio.CancelledError:
        record.ended_s = time.monotonic()
        if record.ending is Ending.HANG:  # nothing has ended it
            record.ending, record.cancelled_s = Ending.CANCELLED, record.ended_s
        raise
    record.ended_s = time.monotonic()
    return record


async def _within_deadline(client: AsyncClient, record: RequestRecord) -> None:
    deadline_s = record.spec.deadline_s
    async with asyncio.timeout(deadline_s + _GRACE_S):
        await _stream(client.with_options(timeout_s=deadline_s), record)


def _new_span() -> trace.Span:
    """A span of nobody's tracer: its only use is that the router is told its name."""
    return trace.NonRecordingSpan(
        trace.SpanContext(
            trace_id=secrets.randbits(128) | 1,
            span_id=secrets.randbits(64) | 1,
            is_remote=False,
            trace_flags=trace.TraceFlags(trace.TraceFlags.DEFAULT),
        )
    )


async def _stream(client: AsyncClient, record: RequestRecord) -> None:
    spec = record.spec
    async with client.stream(token_ids=spec.prompt, **spec.options()) as stream:
        try:
            async with asyncio.timeout(spec.cancel_after_s):
                async for event in stream:
                    _take(record, event)
                    if spec.read_delay_s:
                        await asyncio.sleep(spec.read_delay_s)
                    if spec.stands_still_s and record.num_tokens >= _FIRST_TOKENS and not record.stood_still_s:
                        await asyncio.sleep(spec.stands_still_s)
                        record.stood_still_s = spec.stands_still_s
        except _Leaves:
            record.cancelled_s = time.monotonic()
            record.ending = Ending.CANCELLED
        except TimeoutError:
            if spec.cancel_after_s is None:
                raise
            if record.ending is not Ending.OK:  # else it came just in time
                record.cancelled_s = time.monotonic()
                record.ending = Ending.CANCELLED


def _take(record: RequestRecord, event: StreamEvent) -> None:
    match event:
        case StreamStarted(request_id=request_id):
            record.request_id = request_id
        case OutputDelta():
            _take_delta(record, event)
        case SequenceFinished(index=index, finish_reason=reason, matched_stop=matched):
            child = record.children.setdefault(index, ChildRecord())
            child.finish_reason, child.matched_stop = reason, matched
        case StreamCompleted(workers=workers, attempts=attempts):
            record.ending = Ending.OK
            record.workers, record.attempts = workers, attempts
        case _:
            return


def _take_delta(record: RequestRecord, delta: OutputDelta) -> None:
    now_s = time.monotonic()
    child = record.children.setdefault(delta.index, ChildRecord())
    if delta.token_ids and delta.position != len(child.token_ids):
        child.num_gaps += 1
    child.token_ids.extend(delta.token_ids)
    child.text += delta.text
    if record.last_token_s is not None:
        record.longest_gap_s = max(record.longest_gap_s, now_s - record.last_token_s)
    if record.first_token_s is None:
        record.first_token_s = now_s
    record.last_token_s = now_s
    most = record.spec.cancel_after_tokens
    if most is not None and record.num_tokens >= most:
        raise _Leaves
