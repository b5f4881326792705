"""A stream of generated output for asyncio."""

import asyncio
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Protocol

import grpc

from tandem.client.attempts import Attempts
from tandem.client.collector import Collector
from tandem.core.errors import TandemError
from tandem.core.inference import Generation, KeepAlive, OutputDelta, StreamEvent
from tandem.rpc.errors import error_from_rpc
from tandem.rpc.stubs.public import STREAM_GENERATE


class AsyncStreamCall(Protocol):
    """The part of a gRPC call that is used here."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Return the messages."""
        ...

    def cancel(self) -> object:
        """End the call."""
        ...


class AsyncGenerationStream:
    """Iterate it for events, inside ``async with``; leaving the block cancels what still runs.

    Events are StreamStarted, then any number of OutputDelta and SequenceFinished, then StreamCompleted. A failed
    request raises its error instead of completing.
    """

    def __init__(self, open_call: Callable[[float], AsyncStreamCall], attempts: Attempts) -> None:
        self._open_call = open_call
        self._attempts = attempts
        self._call: AsyncStreamCall | None = None
        self._events: AsyncIterator[StreamEvent] | None = None

    async def __aenter__(self) -> "AsyncGenerationStream":
        """Send the request."""
        self._call = self._open_call(self._attempts.timeout_s())
        self._events = self._run(self._call)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Cancel the request, if it still runs."""
        if self._call is not None:
            self._call.cancel()

    def __aiter__(self) -> AsyncIterator[StreamEvent]:
        """Return the events that are still to come."""
        if self._events is None:
            raise RuntimeError("a stream is used as `async with client.stream(...) as stream:`")
        return self._events

    async def texts(self) -> AsyncIterator[str]:
        """Yield the text of the first sequence as it comes."""
        async for event in self:
            if isinstance(event, OutputDelta) and event.index == 0 and event.text:
                yield event.text

    async def collect(self) -> Generation:
        """Read all events and return what the unary call would have answered."""
        collector = Collector()
        async for event in self:
            collector.add(event)
        return collector.result()

    async def _run(self, call: AsyncStreamCall) -> AsyncIterator[StreamEvent]:
        pause_s = 0.0
        seen = False
        while True:
            try:
                async for event in self._decoded(call):
                    seen = True
                    yield event
            except TandemError as error:
                if seen:
                    raise
                pause_s = self._attempts.pause_after(error)
            else:
                self._attempts.note_success()
                return
            await asyncio.sleep(pause_s)
            call = self._call = self._open_call(self._attempts.timeout_s())

    async def _decoded(self, call: AsyncStreamCall) -> AsyncIterator[StreamEvent]:
        try:
            async for data in call:
                event = STREAM_GENERATE.decode(data)
                if not isinstance(event, KeepAlive):
                    yield event
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error
