"""Random core values for the codec tests; every field that travels gets every kind of value."""

from typing import TypeVar

from hypothesis import strategies as st

from tandem.core.cluster import (
    ClusterStatus,
    PairState,
    PairStatus,
    ServingMode,
    ServingStatus,
    WorkerState,
    WorkerStatus,
)
from tandem.core.description import WorkerDescription, WorkerHoldings
from tandem.core.ids import Epoch, RequestId, Tenant, WorkerId
from tandem.core.inference import (
    CachePin,
    ChatPrompt,
    DetokenizeRequest,
    GeneratedSequence,
    GenerateRequest,
    Generation,
    KeepAlive,
    ModelCard,
    OutputDelta,
    SamplingOptions,
    SequenceFinished,
    ServedBy,
    StreamCompleted,
    StreamStarted,
    TextPrompt,
    TokenizeRequest,
    TokenPrompt,
)
from tandem.core.latency import LatencyCoefficients
from tandem.core.messages import (
    Abort,
    AttemptFailed,
    AttemptReleased,
    Beat,
    ForwardGrant,
    Granted,
    HandoverDone,
    Hello,
    PrefillDone,
    ReserveDecode,
    StartPrefill,
    StepReport,
)
from tandem.core.types import (
    ChatMessage,
    FinishReason,
    GenerationTask,
    KvSource,
    PhaseTimings,
    PositionLogprobs,
    PrefixPin,
    PriorityClass,
    Role,
    SamplingParams,
    StopParams,
    TokenDelta,
    TokenLogprob,
    Usage,
    WorkerInfo,
    WorkerLoad,
)

u32 = st.integers(0, 2**32 - 1)
u63 = st.integers(0, 2**63 - 1)
u64 = st.integers(0, 2**64 - 1)
text = st.text(max_size=12)
number = st.floats(allow_nan=False)
ids = st.lists(u32, max_size=5).map(tuple)
flag = st.booleans()
request_id = st.text("0123456789abcdef", min_size=1, max_size=32).map(RequestId)
worker_id = st.text(min_size=1, max_size=8).map(WorkerId)
epoch = u63.map(Epoch)
finish = st.sampled_from(FinishReason)
role = st.sampled_from(Role)
bias = st.dictionaries(u32, number, max_size=3)


T = TypeVar("T")


def maybe(strategy: st.SearchStrategy[T]) -> st.SearchStrategy[T | None]:
    return st.none() | strategy


token_logprob = st.builds(TokenLogprob, token_id=u32, logprob=number)
logprobs = st.lists(
    st.builds(PositionLogprobs, chosen=token_logprob, top=st.lists(token_logprob, max_size=2).map(tuple)), max_size=3
).map(tuple)

scalar = st.text(max_size=5) | st.booleans() | st.integers(-(2**63), 2**63 - 1) | number
chat_message = st.builds(ChatMessage, role=text, content=text)
chat = st.builds(
    ChatPrompt,
    messages=st.lists(chat_message, max_size=3).map(tuple),
    template_variables=st.dictionaries(text, scalar, max_size=3),
    add_generation_prompt=flag,
)
text_prompt = st.builds(TextPrompt, text=text)
sampling_options = st.builds(
    SamplingOptions,
    temperature=maybe(number),
    top_k=maybe(u32),
    top_p=maybe(number),
    min_p=maybe(number),
    repetition_penalty=maybe(number),
    presence_penalty=maybe(number),
    frequency_penalty=maybe(number),
    logit_bias=bias,
    seed=maybe(u64),
    num_logprobs=maybe(u32),
)
generate_request = st.builds(
    GenerateRequest,
    prompt=text_prompt | st.builds(TokenPrompt, token_ids=ids) | chat,
    model=text,
    num_sequences=u32,
    max_tokens=maybe(u32),
    stop=st.lists(text, max_size=3).map(tuple),
    stop_token_ids=ids,
    ignore_eos=flag,
    include_stop=flag,
    idempotency_key=text,
    sampling=sampling_options,
    priority=st.sampled_from(PriorityClass),
    label=text,
    cache_pin=st.none()
    | st.builds(CachePin, ttl_s=number)
    | st.builds(CachePin, ttl_s=number, num_tokens=u32)
    | st.builds(CachePin, ttl_s=number, num_messages=u32),
)
tokenize_request = st.builds(TokenizeRequest, prompt=text_prompt | chat, model=text, add_special_tokens=flag)
detokenize_request = st.builds(DetokenizeRequest, token_ids=ids, model=text, skip_special_tokens=flag)

usage = st.builds(Usage, prompt_tokens=u64, cached_tokens=u64, output_tokens=u64, pinned_tokens=u64)
timings = st.builds(
    PhaseTimings,
    tokenize_ms=maybe(number),
    queue_ms=maybe(number),
    prefill_ms=maybe(number),
    handover_ms=maybe(number),
    first_decode_ms=maybe(number),
    ttft_ms=maybe(number),
    total_ms=maybe(number),
)
served_by = st.builds(ServedBy, prefill_worker=worker_id, decode_worker=worker_id)
sequence = st.builds(
    GeneratedSequence,
    index=u32,
    text=text,
    token_ids=ids,
    finish_reason=finish,
    matched_stop=maybe(text),
    logprobs=logprobs,
)
generation = st.builds(
    Generation,
    request_id=request_id,
    sequences=st.lists(sequence, max_size=3).map(tuple),
    usage=usage,
    timings=timings,
    workers=served_by,
    attempts=u32,
)
stream_event = st.one_of(
    st.builds(StreamStarted, request_id=request_id, prompt_tokens=u32, cached_tokens=u32),
    st.builds(OutputDelta, index=u32, position=u32, text=text, token_ids=ids, logprobs=logprobs),
    st.builds(SequenceFinished, index=u32, finish_reason=finish, matched_stop=maybe(text)),
    st.builds(StreamCompleted, usage=usage, timings=timings, workers=served_by, attempts=u32),
    st.just(KeepAlive()),
)
model_card = st.builds(
    ModelCard,
    name=text,
    digest=text,
    max_context_tokens=u32,
    vocab_size=u32,
    has_chat_template=flag,
    eos_token_ids=ids,
)

task = st.builds(
    GenerationTask,
    request_id=request_id,
    attempt=u32,
    tenant=text.map(Tenant),
    prompt_token_ids=ids,
    num_sequences=u32,
    sampling=st.builds(
        SamplingParams,
        temperature=number,
        top_k=u32,
        top_p=number,
        min_p=number,
        repetition_penalty=number,
        presence_penalty=number,
        frequency_penalty=number,
        logit_bias=bias,
        seed=u64,
        num_logprobs=maybe(u32),
    ),
    stop=st.builds(
        StopParams,
        max_tokens=u32,
        stop=st.lists(text, max_size=3).map(tuple),
        stop_token_ids=ids,
        ignore_eos=flag,
        include_stop=flag,
    ),
    emitted=st.lists(ids, max_size=3).map(tuple),
    done_children=st.frozensets(u32, max_size=3),
    deadline_left_s=maybe(number),
    priority=st.sampled_from(PriorityClass),
    traceparent=text,
    pin=maybe(st.builds(PrefixPin, num_tokens=u32, ttl_s=number)),
)
command = st.one_of(
    st.builds(Hello, router_id=text, protocol_version=u32),
    st.builds(StartPrefill, task=task, reuse_attempt=maybe(u32)),
    st.builds(ReserveDecode, task=task, source=st.sampled_from(KvSource)),
    st.builds(ForwardGrant, request_id=request_id, attempt=u32, grant=st.binary(max_size=8)),
    st.builds(Abort, request_id=request_id, attempt=u32, reason=text, child=maybe(u32)),
)

token_delta = st.builds(
    TokenDelta,
    request_id=st.sampled_from([RequestId("a"), RequestId("b"), RequestId("c")]),
    attempt=st.integers(0, 2),
    child=u32,
    position=u32,
    token_ids=st.lists(u32, min_size=1, max_size=1).map(tuple) | ids,
    text=text,
    logprobs=st.just(()) | logprobs,
    finish_reason=maybe(finish),
    matched_stop=maybe(text),
)
token_deltas = st.lists(token_delta, max_size=8).map(tuple)
load = st.builds(
    WorkerLoad,
    num_running=u32,
    num_waiting=u32,
    waiting_prefill_tokens=u64,
    running_context_tokens=u64,
    free_blocks=u32,
    total_blocks=u32,
    receiving_blocks=u32,
    cached_blocks=u32,
    pinned_blocks=u32,
    step_ms=number,
)
event = st.one_of(
    st.builds(Granted, request_id=request_id, attempt=u32, grant=st.binary(max_size=8)),
    st.builds(
        PrefillDone,
        request_id=request_id,
        attempt=u32,
        wait_ms=number,
        compute_ms=number,
        num_cached_tokens=u32,
        num_pinned_tokens=u32,
    ),
    st.builds(
        HandoverDone,
        request_id=request_id,
        attempt=u32,
        num_bytes=u64,
        transport=text,
        handover_ms=number,
        exposed_ms=number,
    ),
    st.builds(
        AttemptFailed,
        request_id=request_id,
        attempt=u32,
        reason=text,
        message=text,
        retryable=flag,
        child=maybe(u32),
        held=flag,
    ),
    st.builds(AttemptReleased, request_id=request_id, attempt=u32),
)
worker_message = st.one_of(
    st.builds(
        StepReport,
        worker_epoch=epoch,
        sequence=u64,
        tokens=token_deltas,
        events=st.lists(event, max_size=4).map(tuple),
        load=maybe(load),
    ),
    st.builds(Beat, worker_epoch=epoch, role=role, draining=flag, load=load, step_age_ms=number),
)

pair_status = st.builds(
    PairStatus,
    prefill_worker=text.map(WorkerId),
    decode_worker=text.map(WorkerId),
    state=st.sampled_from(PairState),
    num_failures=u32,
    last_reason=text,
    probe_in_ms=maybe(number),
)

info = st.builds(
    WorkerInfo,
    worker_id=worker_id,
    epoch=epoch,
    role=role,
    address=text,
    model=text,
    model_digest=text,
    layout_fingerprint=text,
    block_size=u32,
    total_blocks=u32,
    max_context_tokens=u32,
    max_sequences=u32,
    pid=u32,
    host=text,
)
description = st.builds(
    WorkerDescription,
    info=info,
    latency=st.builds(
        LatencyCoefficients,
        prefill=st.tuples(number, number, number),
        step=st.tuples(number, number, number),
        transfer=st.tuples(number, number),
    ),
    load=load,
    draining=flag,
    holdings=st.builds(WorkerHoldings, num_attempts=u32, num_handovers=u32, num_sessions=u32, num_tasks=u32),
)
worker_status = st.builds(
    WorkerStatus, info=info, state=st.sampled_from(WorkerState), load=maybe(load), silent_ms=maybe(number)
)
cluster_status = st.builds(
    ClusterStatus,
    model=text,
    ready=flag,
    router_id=text,
    uptime_s=number,
    not_ready_reason=text,
    num_queued=u32,
    num_running=u32,
    num_ended=st.dictionaries(text, u64, max_size=3),
    workers=st.lists(worker_status, max_size=2).map(tuple),
    pairs=st.lists(pair_status, max_size=2).map(tuple),
    num_stale=u64,
    num_isolated=u32,
    num_in_flight=u32,
    num_tasks=u32,
    serving=st.builds(
        ServingStatus,
        mode=st.sampled_from(ServingMode),
        cause=text,
        since_s=number,
        num_placed=st.dictionaries(text, u64, max_size=3),
    ),
    cache_hit_rates=st.dictionaries(text, number, max_size=3),
)
