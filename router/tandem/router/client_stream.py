"""What lies between the dispatcher and one caller: a bounded, coalescing buffer, or a collector for unary calls.

The dispatcher never waits: it puts, and the caller's coroutine takes. While the caller is as fast as its request, each
put is taken alone. When it is slower, what has piled up leaves as one delta per sequence, so that a slow reader costs
fewer messages instead of more memory; over the bound the request ends (``SLOW_CONSUMER``). Not an ordering buffer: the
ledger puts only what may be forwarded.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tandem.core.errors import InternalError, TandemError
from tandem.core.ids import RequestId, WorkerId
from tandem.core.inference import (
    GeneratedSequence,
    Generation,
    KeepAlive,
    OutputDelta,
    SequenceFinished,
    ServedBy,
    StreamCompleted,
    StreamEvent,
    StreamStarted,
)
from tandem.core.types import FinishReason, PositionLogprobs, TokenDelta
from tandem.router.actions import Ended, Started
from tandem.router.write_gate import WriteGate

_BURST_FACTOR = 16


class Overflow(Exception):
    """The caller reads too slowly: the buffer is over its bound."""


class Sink(Protocol):
    """Where the dispatcher puts what a caller gets. No method waits."""

    def put_started(self, started: Started) -> None:
        """The prompt was read."""
        ...

    def put_delta(self, delta: TokenDelta) -> None:
        """New output. Raises Overflow when the caller is too slow."""
        ...

    def put_ended(self, ended: Ended) -> None:
        """The request is over; nothing is put after this."""
        ...

    def put_keep_alive(self) -> None:
        """Nothing was put for a while."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamBounds:
    """How far a caller may be behind."""

    max_tokens: int = 256
    max_bytes: int = 64 * 1024


class ClientStream:
    """Buffer of one streaming call: many puts, one taker."""

    __slots__ = (
        "_bounds",
        "_deltas",
        "_ended",
        "_gate",
        "_is_held",
        "_keep_alive",
        "_num_bytes",
        "_num_tokens",
        "_on_overflow",
        "_started",
        "_waiter",
        "_writing",
        "overflowed",
        "request_id",
    )

    def __init__(
        self,
        request_id: RequestId,
        bounds: StreamBounds,
        *,
        gate: WriteGate | None = None,
        on_overflow: Callable[[], object] | None = None,
    ) -> None:
        self.request_id = request_id
        self._gate = gate or WriteGate()
        self._is_held = False
        self.overflowed = False
        self._on_overflow = on_overflow
        self._bounds = bounds
        self._started: Started | None = None
        self._deltas: list[TokenDelta] = []
        self._num_tokens = 0
        self._num_bytes = 0
        self._keep_alive = False
        self._ended: Ended | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._writing = False

    @property
    def error(self) -> TandemError | None:
        """What the request ended with, if it failed."""
        return None if self._ended is None else self._ended.error

    def put_started(self, started: Started) -> None:
        """Called once, before any delta."""
        self._started = started
        self._wake()

    def put_delta(self, delta: TokenDelta) -> None:
        """Add output; raises Overflow over the bound."""
        self._deltas.append(delta)
        self._num_tokens += len(delta.token_ids)
        self._num_bytes += len(delta.text) + 96 * len(delta.logprobs)
        if self._num_tokens > self._bounds.max_tokens or self._num_bytes > self._bounds.max_bytes:
            self._check_blame()
        if self._waiter is not None and not self._is_held:
            if self._gate.hold_s == 0.0 or self._started is not None:
                self._wake()
            else:
                self._is_held = True
                self._gate.hold(self)

    def put_ended(self, ended: Ended) -> None:
        """The request is over; after a failure nothing that still waits is of use."""
        self._ended = ended
        if ended.error is not None:
            self._deltas.clear()
            if self.overflowed and self._on_overflow is not None:
                self._on_overflow()
        self._wake()

    def put_keep_alive(self) -> None:
        """Let the caller know that the request is alive."""
        self._keep_alive = True
        self._wake()

    async def wait(self) -> None:
        """Return when there is something to take. The dispatcher puts a keep-alive or the end, so this ends."""
        self._writing = False
        if self._started is not None or self._ended is not None or self._keep_alive:
            return
        if self._deltas:
            if self._gate.hold_s == 0.0:
                return
            self._is_held = True
            self._gate.hold(self)
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def take(self) -> "Taken":
        """Take all that has been put, coalesced."""
        events: list[StreamEvent] = []
        self._writing = True
        if self._started is not None:
            started, self._started = self._started, None
            events.append(
                StreamStarted(
                    request_id=self.request_id,
                    prompt_tokens=started.num_prompt_tokens,
                    cached_tokens=started.num_cached_tokens,
                )
            )
        deltas = self._deltas
        if deltas:
            self._deltas = []
            self._num_tokens = 0
            self._num_bytes = 0
            events += coalesce(deltas)
        elif self._keep_alive and not events:
            events.append(KeepAlive())
        self._keep_alive = False
        ended = self._ended
        if ended is not None and ended.error is None:
            events.append(completed_event(ended))
        return Taken(events=events, ended=ended)

    def _check_blame(self) -> None:
        """Over the bound: the caller's fault while a write to it is pending, else only a burst that it had no turn to
        take; that has a bound as well."""
        factor = 1 if self._writing else _BURST_FACTOR
        if self._num_tokens > factor * self._bounds.max_tokens or self._num_bytes > factor * self._bounds.max_bytes:
            self.overflowed = True
            raise Overflow

    def release(self) -> None:
        """The gate lets go of this stream."""
        self._is_held = False
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


@dataclass(frozen=True, slots=True)
class Taken:
    """What a taker sends now. ``ended`` is set when nothing follows."""

    events: Sequence[StreamEvent]
    ended: Ended | None


def coalesce(deltas: Sequence[TokenDelta]) -> list[StreamEvent]:
    """Join consecutive deltas of each sequence; the end of a sequence follows its last delta."""
    if len(deltas) == 1:
        return _events_of(deltas[0].child, deltas)
    by_child: dict[int, list[TokenDelta]] = {}
    for delta in deltas:
        by_child.setdefault(delta.child, []).append(delta)
    events: list[StreamEvent] = []
    for child, run in by_child.items():
        events += _events_of(child, run)
    return events


def _events_of(child: int, run: Sequence[TokenDelta]) -> list[StreamEvent]:
    first, last = run[0], run[-1]
    if len(run) == 1:
        text, token_ids, logprobs = first.text, first.token_ids, first.logprobs
    else:
        text = "".join([delta.text for delta in run])
        token_ids = tuple([token for delta in run for token in delta.token_ids])
        logprobs = tuple([at for delta in run for at in delta.logprobs])
    events: list[StreamEvent] = []
    if token_ids or text:
        events.append(
            OutputDelta(index=child, position=first.position, text=text, token_ids=token_ids, logprobs=logprobs)
        )
    if last.finish_reason is not None:
        events.append(SequenceFinished(index=child, finish_reason=last.finish_reason, matched_stop=last.matched_stop))
    return events


def completed_event(ended: Ended) -> StreamCompleted:
    """The last event of a stream that did not fail."""
    return StreamCompleted(
        usage=ended.usage,
        timings=ended.timings,
        workers=ServedBy(
            prefill_worker=WorkerId(ended.prefill_worker_id), decode_worker=WorkerId(ended.decode_worker_id)
        ),
        attempts=ended.num_attempts,
    )


class _Growing:
    """One sequence of a unary answer while it grows."""

    __slots__ = ("finish_reason", "logprobs", "matched_stop", "texts", "token_ids")

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.token_ids: list[int] = []
        self.logprobs: list[PositionLogprobs] = []
        self.finish_reason: FinishReason | None = None
        self.matched_stop: str | None = None


class Collector:
    """Gathers a whole answer for a unary call. Its size is bounded by the request's own limits."""

    def __init__(self, request_id: RequestId, num_sequences: int) -> None:
        self._request_id = request_id
        self._growing = [_Growing() for _ in range(num_sequences)]
        self._done: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()

    def put_started(self, started: Started) -> None:
        """Of no use to a caller that gets one answer."""

    def put_delta(self, delta: TokenDelta) -> None:
        """Add output."""
        growing = self._growing[delta.child]
        growing.texts.append(delta.text)
        growing.token_ids += delta.token_ids
        growing.logprobs += delta.logprobs
        if delta.finish_reason is not None:
            growing.finish_reason = delta.finish_reason
            growing.matched_stop = delta.matched_stop

    def put_ended(self, ended: Ended) -> None:
        """The request is over."""
        if not self._done.done():
            self._done.set_result(ended)

    def put_keep_alive(self) -> None:
        """A unary call has nothing to keep alive."""

    async def result(self) -> Generation:
        """Wait for the end. Raises the request's error when it did not end well."""
        ended = await self._done
        if ended.error is not None:
            raise ended.error
        completed = completed_event(ended)
        return Generation(
            request_id=self._request_id,
            sequences=tuple(self._sequence(index) for index in range(len(self._growing))),
            usage=completed.usage,
            timings=completed.timings,
            workers=completed.workers,
            attempts=completed.attempts,
        )

    def _sequence(self, index: int) -> GeneratedSequence:
        growing = self._growing[index]
        if growing.finish_reason is None:
            raise InternalError(f"sequence {index} of a completed request has no end")
        return GeneratedSequence(
            index=index,
            text="".join(growing.texts),
            token_ids=tuple(growing.token_ids),
            finish_reason=growing.finish_reason,
            matched_stop=growing.matched_stop,
            logprobs=tuple(growing.logprobs),
        )
