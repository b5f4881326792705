"""Puts the events of a stream together to the answer that an unary call would have given. Zero I/O."""

from tandem.core.errors import FailedPrecondition
from tandem.core.inference import (
    GeneratedSequence,
    Generation,
    KeepAlive,
    OutputDelta,
    SequenceFinished,
    StreamCompleted,
    StreamEvent,
    StreamStarted,
)


class Collector:
    """Add every event in order, then ask for the result."""

    def __init__(self) -> None:
        self._started: StreamStarted | None = None
        self._completed: StreamCompleted | None = None
        self._deltas: dict[int, list[OutputDelta]] = {}
        self._finished: dict[int, SequenceFinished] = {}

    def add(self, event: StreamEvent) -> None:
        """Take one event. Raises FailedPrecondition when a sequence has a gap or a repeat."""
        match event:
            case OutputDelta():
                self._add_delta(event)
            case SequenceFinished():
                self._finished[event.index] = event
            case StreamStarted():
                self._started = event
            case StreamCompleted():
                self._completed = event
            case KeepAlive():
                pass

    def result(self) -> Generation:
        """Return the whole answer. Raises FailedPrecondition when the stream has not completed."""
        if self._started is None or self._completed is None:
            raise FailedPrecondition("the stream has not completed", reason="STREAM_INCOMPLETE")
        return Generation(
            request_id=self._started.request_id,
            sequences=tuple(self._sequence(index) for index in sorted(self._finished)),
            usage=self._completed.usage,
            timings=self._completed.timings,
            workers=self._completed.workers,
            attempts=self._completed.attempts,
        )

    def _add_delta(self, delta: OutputDelta) -> None:
        deltas = self._deltas.setdefault(delta.index, [])
        expected = deltas[-1].position + len(deltas[-1].token_ids) if deltas else 0
        if delta.position != expected:
            raise FailedPrecondition(
                f"sequence {delta.index} goes on at position {delta.position}, not at {expected}", reason="STREAM_GAP"
            )
        deltas.append(delta)

    def _sequence(self, index: int) -> GeneratedSequence:
        deltas = self._deltas.get(index, [])
        finished = self._finished[index]
        return GeneratedSequence(
            index=index,
            text="".join(delta.text for delta in deltas),
            token_ids=tuple(token for delta in deltas for token in delta.token_ids),
            finish_reason=finished.finish_reason,
            matched_stop=finished.matched_stop,
            logprobs=tuple(at for delta in deltas for at in delta.logprobs),
        )
