"""A stream of generated output, blocking."""

import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Protocol

import grpc

from tandem.client.attempts import Attempts
from tandem.client.collector import Collector
from tandem.core.errors import TandemError
from tandem.core.inference import Generation, KeepAlive, OutputDelta, StreamEvent
from tandem.rpc.errors import error_from_rpc
from tandem.rpc.stubs.public import STREAM_GENERATE


class StreamCall(Protocol):
    """The part of a gRPC call that is used here."""

    def __iter__(self) -> Iterator[bytes]:
        """Return the messages."""
        ...

    def cancel(self) -> object:
        """End the call."""
        ...


class GenerationStream:
    """Iterate it for events, inside ``with``; leaving the block cancels what still runs.

    Events are StreamStarted, then any number of OutputDelta and SequenceFinished, then StreamCompleted. A failed
    request raises its error instead of completing.
    """

    def __init__(self, open_call: Callable[[float], StreamCall], attempts: Attempts) -> None:
        self._open_call = open_call
        self._attempts = attempts
        self._call: StreamCall | None = None
        self._events: Iterator[StreamEvent] | None = None

    def __enter__(self) -> "GenerationStream":
        """Send the request."""
        self._call = self._open_call(self._attempts.timeout_s())
        self._events = self._run(self._call)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Cancel the request, if it still runs."""
        if self._call is not None:
            self._call.cancel()

    def __iter__(self) -> Iterator[StreamEvent]:
        """Return the events that are still to come."""
        if self._events is None:
            raise RuntimeError("a stream is used as `with client.stream(...) as stream:`")
        return self._events

    def texts(self) -> Iterator[str]:
        """Yield the text of the first sequence as it comes."""
        for event in self:
            if isinstance(event, OutputDelta) and event.index == 0 and event.text:
                yield event.text

    def collect(self) -> Generation:
        """Read all events and return what the unary call would have answered."""
        collector = Collector()
        for event in self:
            collector.add(event)
        return collector.result()

    def _run(self, call: StreamCall) -> Iterator[StreamEvent]:
        pause_s = 0.0
        seen = False
        while True:
            try:
                for event in self._decoded(call):
                    seen = True
                    yield event
            except TandemError as error:
                if seen:
                    raise
                pause_s = self._attempts.pause_after(error)
            else:
                self._attempts.note_success()
                return
            time.sleep(pause_s)
            call = self._call = self._open_call(self._attempts.timeout_s())

    def _decoded(self, call: StreamCall) -> Iterator[StreamEvent]:
        try:
            for data in call:
                event = STREAM_GENERATE.decode(data)
                if not isinstance(event, KeepAlive):
                    yield event
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error
