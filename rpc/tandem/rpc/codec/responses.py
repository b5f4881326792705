"""Public answers: a whole generation, the events of a stream, models."""

from collections.abc import Sequence

from tandem.core.errors import InvalidArgument
from tandem.core.ids import RequestId, WorkerId
from tandem.core.inference import (
    GeneratedSequence,
    Generation,
    KeepAlive,
    ModelCard,
    OutputDelta,
    SequenceFinished,
    ServedBy,
    StreamCompleted,
    StreamEvent,
    StreamStarted,
)
from tandem.core.types import FinishReason, PhaseTimings, PositionLogprobs, TokenLogprob, Usage
from tandem.inference.v1 import inference_pb2 as pb
from tandem.rpc.codec.enums import EnumCodec

FINISH = EnumCodec(
    {
        FinishReason.STOP: pb.FINISH_REASON_STOP,
        FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
        FinishReason.CANCELLED: pb.FINISH_REASON_CANCELLED,
    }
)
_PHASES = (
    "tokenize_ms",
    "queue_ms",
    "prefill_ms",
    "handover_ms",
    "first_decode_ms",
    "ttft_ms",
    "total_ms",
    "handover_bytes",
    "handover_skipped_bytes",
)


def encode_generation(generation: Generation) -> pb.GenerateResponse:
    """Core to protobuf."""
    return pb.GenerateResponse(
        request_id=generation.request_id,
        sequences=[_encode_sequence(sequence) for sequence in generation.sequences],
        usage=_encode_usage(generation.usage),
        timing=_encode_timings(generation.timings),
        workers=_encode_workers(generation.workers),
        attempts=generation.attempts,
    )


def decode_generation(message: pb.GenerateResponse) -> Generation:
    """Protobuf to core."""
    return Generation(
        request_id=RequestId(message.request_id),
        sequences=tuple(_decode_sequence(sequence) for sequence in message.sequences),
        usage=_decode_usage(message.usage),
        timings=_decode_timings(message.timing),
        workers=_decode_workers(message.workers),
        attempts=message.attempts,
    )


def encode_stream_event(event: StreamEvent) -> pb.StreamGenerateResponse:
    """Core to protobuf. Deltas are the hot path, so they are told apart first."""
    match event:
        case OutputDelta():
            delta = pb.Delta(index=event.index, position=event.position, text=event.text, token_ids=event.token_ids)
            if event.logprobs:
                delta.logprobs.extend(_encode_logprobs(event.logprobs))
            return pb.StreamGenerateResponse(delta=delta)
        case KeepAlive():
            return pb.StreamGenerateResponse(keep_alive=pb.KeepAlive())
        case SequenceFinished():
            finished = pb.Finished(
                index=event.index,
                finish_reason=FINISH.encode(event.finish_reason),
                matched_stop=event.matched_stop,
            )
            return pb.StreamGenerateResponse(finished=finished)
        case StreamStarted():
            started = pb.Started(
                request_id=event.request_id, prompt_tokens=event.prompt_tokens, cached_tokens=event.cached_tokens
            )
            return pb.StreamGenerateResponse(started=started)
        case StreamCompleted():
            completed = pb.Completed(
                usage=_encode_usage(event.usage),
                timing=_encode_timings(event.timings),
                workers=_encode_workers(event.workers),
                attempts=event.attempts,
            )
            return pb.StreamGenerateResponse(completed=completed)


def decode_stream_event(message: pb.StreamGenerateResponse) -> StreamEvent:
    """Protobuf to core. Raises InvalidArgument for an event this release does not know."""
    kind = message.WhichOneof("event")
    match kind:
        case "delta":
            return _decode_delta(message.delta)
        case "keep_alive":
            return KeepAlive()
        case "finished":
            finished = message.finished
            return SequenceFinished(
                index=finished.index,
                finish_reason=FINISH.decode(finished.finish_reason, field="finish_reason"),
                matched_stop=finished.matched_stop if finished.HasField("matched_stop") else None,
            )
        case "started":
            started = message.started
            return StreamStarted(
                request_id=RequestId(started.request_id),
                prompt_tokens=started.prompt_tokens,
                cached_tokens=started.cached_tokens,
            )
        case "completed":
            completed = message.completed
            return StreamCompleted(
                usage=_decode_usage(completed.usage),
                timings=_decode_timings(completed.timing),
                workers=_decode_workers(completed.workers),
                attempts=completed.attempts,
            )
        case _:
            raise InvalidArgument("event", "is not one this release knows", remedy="use one release on both sides")


def encode_model_card(card: ModelCard) -> pb.Model:
    """Core to protobuf."""
    return pb.Model(
        name=card.name,
        digest=card.digest,
        max_context_tokens=card.max_context_tokens,
        vocab_size=card.vocab_size,
        has_chat_template=card.has_chat_template,
        eos_token_ids=card.eos_token_ids,
    )


def decode_model_card(message: pb.Model) -> ModelCard:
    """Protobuf to core."""
    return ModelCard(
        name=message.name,
        digest=message.digest,
        max_context_tokens=message.max_context_tokens,
        vocab_size=message.vocab_size,
        has_chat_template=message.has_chat_template,
        eos_token_ids=tuple(message.eos_token_ids),
    )


def _decode_delta(delta: pb.Delta) -> OutputDelta:
    return OutputDelta(
        index=delta.index,
        position=delta.position,
        text=delta.text,
        token_ids=tuple(delta.token_ids),
        logprobs=_decode_logprobs(delta.logprobs) if delta.logprobs else (),
    )


def _encode_sequence(sequence: GeneratedSequence) -> pb.Sequence:
    return pb.Sequence(
        index=sequence.index,
        text=sequence.text,
        token_ids=sequence.token_ids,
        logprobs=_encode_logprobs(sequence.logprobs),
        finish_reason=FINISH.encode(sequence.finish_reason),
        matched_stop=sequence.matched_stop,
    )


def _decode_sequence(message: pb.Sequence) -> GeneratedSequence:
    return GeneratedSequence(
        index=message.index,
        text=message.text,
        token_ids=tuple(message.token_ids),
        finish_reason=FINISH.decode(message.finish_reason, field="finish_reason"),
        matched_stop=message.matched_stop if message.HasField("matched_stop") else None,
        logprobs=_decode_logprobs(message.logprobs),
    )


def _encode_logprobs(positions: Sequence[PositionLogprobs]) -> list[pb.PositionLogprobs]:
    return [
        pb.PositionLogprobs(
            chosen=pb.TokenLogprob(token_id=at.chosen.token_id, logprob=at.chosen.logprob),
            top=[pb.TokenLogprob(token_id=token.token_id, logprob=token.logprob) for token in at.top],
        )
        for at in positions
    ]


def _decode_logprobs(messages: Sequence[pb.PositionLogprobs]) -> tuple[PositionLogprobs, ...]:
    return tuple(
        PositionLogprobs(
            chosen=TokenLogprob(token_id=message.chosen.token_id, logprob=message.chosen.logprob),
            top=tuple(TokenLogprob(token_id=token.token_id, logprob=token.logprob) for token in message.top),
        )
        for message in messages
    )


def _encode_usage(usage: Usage) -> pb.Usage:
    return pb.Usage(
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        output_tokens=usage.output_tokens,
        uncached_tokens=usage.uncached_tokens,
        pinned_tokens=usage.pinned_tokens,
    )


def _decode_usage(message: pb.Usage) -> Usage:
    return Usage(
        prompt_tokens=message.prompt_tokens,
        cached_tokens=message.cached_tokens,
        output_tokens=message.output_tokens,
        pinned_tokens=message.pinned_tokens,
    )


def _encode_timings(timings: PhaseTimings) -> pb.Timing:
    return pb.Timing(**{phase: getattr(timings, phase) for phase in _PHASES})


def _decode_timings(message: pb.Timing) -> PhaseTimings:
    return PhaseTimings(**{phase: getattr(message, phase) for phase in _PHASES if message.HasField(phase)})


def _encode_workers(workers: ServedBy) -> pb.ServedBy:
    return pb.ServedBy(prefill_worker_id=workers.prefill_worker, decode_worker_id=workers.decode_worker)


def _decode_workers(message: pb.ServedBy) -> ServedBy:
    return ServedBy(
        prefill_worker=WorkerId(message.prefill_worker_id), decode_worker=WorkerId(message.decode_worker_id)
    )
