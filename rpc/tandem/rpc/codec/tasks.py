"""The task a router gives a worker."""

from tandem.core.errors import InvalidArgument
from tandem.core.ids import RequestId, Tenant
from tandem.core.types import GenerationTask, PrefixPin, PriorityClass, SamplingParams, StopParams
from tandem.rpc.codec.enums import EnumCodec
from tandem.worker.v1 import worker_pb2 as pb

PRIORITY = EnumCodec(
    {
        PriorityClass.INTERACTIVE: pb.PRIORITY_CLASS_INTERACTIVE,
        PriorityClass.STANDARD: pb.PRIORITY_CLASS_STANDARD,
        PriorityClass.BATCH: pb.PRIORITY_CLASS_BATCH,
    }
)


def encode_task(task: GenerationTask) -> pb.GenerationTask:
    """Core to protobuf."""
    return pb.GenerationTask(
        request_id=task.request_id,
        attempt=task.attempt,
        tenant=task.tenant,
        prompt_token_ids=task.prompt_token_ids,
        num_sequences=task.num_sequences,
        sampling=_encode_sampling(task.sampling),
        stop=_encode_stop(task.stop),
        emitted=[pb.TokenIds(ids=tokens) for tokens in task.emitted],
        done_children=sorted(task.done_children),
        deadline_left_s=task.deadline_left_s,
        priority=PRIORITY.encode(task.priority),
        traceparent=task.traceparent,
        pin=None if task.pin is None else pb.PrefixPin(num_tokens=task.pin.num_tokens, ttl_s=task.pin.ttl_s),
    )


def decode_task(message: pb.GenerationTask) -> GenerationTask:
    """Protobuf to core. Raises InvalidArgument for a task without an id; limits are the receiver's to check."""
    if not message.request_id:
        raise InvalidArgument("task.request_id", "is empty", remedy="the router must give one")
    return GenerationTask(
        request_id=RequestId(message.request_id),
        attempt=message.attempt,
        tenant=Tenant(message.tenant),
        prompt_token_ids=tuple(message.prompt_token_ids),
        num_sequences=message.num_sequences,
        sampling=_decode_sampling(message.sampling),
        stop=_decode_stop(message.stop),
        emitted=tuple(tuple(tokens.ids) for tokens in message.emitted),
        done_children=frozenset(message.done_children),
        deadline_left_s=message.deadline_left_s if message.HasField("deadline_left_s") else None,
        priority=PRIORITY.decode(message.priority, field="task.priority"),
        traceparent=message.traceparent,
        pin=PrefixPin(num_tokens=message.pin.num_tokens, ttl_s=message.pin.ttl_s) if message.HasField("pin") else None,
    )


def _encode_sampling(sampling: SamplingParams) -> pb.Sampling:
    return pb.Sampling(
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        logit_bias=dict(sampling.logit_bias),
        seed=sampling.seed,
        num_logprobs=sampling.num_logprobs,
    )


def _decode_sampling(message: pb.Sampling) -> SamplingParams:
    return SamplingParams(
        temperature=message.temperature,
        top_k=message.top_k,
        top_p=message.top_p,
        min_p=message.min_p,
        repetition_penalty=message.repetition_penalty,
        presence_penalty=message.presence_penalty,
        frequency_penalty=message.frequency_penalty,
        logit_bias=dict(message.logit_bias),
        seed=message.seed,
        num_logprobs=message.num_logprobs if message.HasField("num_logprobs") else None,
    )


def _encode_stop(stop: StopParams) -> pb.Stop:
    return pb.Stop(
        max_tokens=stop.max_tokens,
        stop=stop.stop,
        stop_token_ids=stop.stop_token_ids,
        ignore_eos=stop.ignore_eos,
        include_stop=stop.include_stop,
    )


def _decode_stop(message: pb.Stop) -> StopParams:
    return StopParams(
        max_tokens=message.max_tokens,
        stop=tuple(message.stop),
        stop_token_ids=tuple(message.stop_token_ids),
        ignore_eos=message.ignore_eos,
        include_stop=message.include_stop,
    )
