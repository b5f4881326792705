from tandem.worker.v1 import info_pb2 as _info_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class KvSource(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KV_SOURCE_UNSPECIFIED: _ClassVar[KvSource]
    KV_SOURCE_HANDOVER: _ClassVar[KvSource]
    KV_SOURCE_LOCAL: _ClassVar[KvSource]

class PriorityClass(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRIORITY_CLASS_UNSPECIFIED: _ClassVar[PriorityClass]
    PRIORITY_CLASS_INTERACTIVE: _ClassVar[PriorityClass]
    PRIORITY_CLASS_STANDARD: _ClassVar[PriorityClass]
    PRIORITY_CLASS_BATCH: _ClassVar[PriorityClass]

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINISH_REASON_UNSPECIFIED: _ClassVar[FinishReason]
    FINISH_REASON_STOP: _ClassVar[FinishReason]
    FINISH_REASON_LENGTH: _ClassVar[FinishReason]
    FINISH_REASON_CANCELLED: _ClassVar[FinishReason]

class RoleCommandKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLE_COMMAND_KIND_UNSPECIFIED: _ClassVar[RoleCommandKind]
    ROLE_COMMAND_KIND_CLAIM: _ClassVar[RoleCommandKind]
    ROLE_COMMAND_KIND_DRAIN: _ClassVar[RoleCommandKind]
    ROLE_COMMAND_KIND_UNDRAIN: _ClassVar[RoleCommandKind]
    ROLE_COMMAND_KIND_SWITCH: _ClassVar[RoleCommandKind]
    ROLE_COMMAND_KIND_HAND_OVER: _ClassVar[RoleCommandKind]
KV_SOURCE_UNSPECIFIED: KvSource
KV_SOURCE_HANDOVER: KvSource
KV_SOURCE_LOCAL: KvSource
PRIORITY_CLASS_UNSPECIFIED: PriorityClass
PRIORITY_CLASS_INTERACTIVE: PriorityClass
PRIORITY_CLASS_STANDARD: PriorityClass
PRIORITY_CLASS_BATCH: PriorityClass
FINISH_REASON_UNSPECIFIED: FinishReason
FINISH_REASON_STOP: FinishReason
FINISH_REASON_LENGTH: FinishReason
FINISH_REASON_CANCELLED: FinishReason
ROLE_COMMAND_KIND_UNSPECIFIED: RoleCommandKind
ROLE_COMMAND_KIND_CLAIM: RoleCommandKind
ROLE_COMMAND_KIND_DRAIN: RoleCommandKind
ROLE_COMMAND_KIND_UNDRAIN: RoleCommandKind
ROLE_COMMAND_KIND_SWITCH: RoleCommandKind
ROLE_COMMAND_KIND_HAND_OVER: RoleCommandKind

class Sampling(_message.Message):
    __slots__ = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias", "seed", "num_logprobs")
    class LogitBiasEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: float
        def __init__(self, key: _Optional[int] = ..., value: _Optional[float] = ...) -> None: ...
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_PENALTY_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_PENALTY_FIELD_NUMBER: _ClassVar[int]
    LOGIT_BIAS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    NUM_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: _containers.ScalarMap[int, float]
    seed: int
    num_logprobs: int
    def __init__(self, temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., min_p: _Optional[float] = ..., repetition_penalty: _Optional[float] = ..., presence_penalty: _Optional[float] = ..., frequency_penalty: _Optional[float] = ..., logit_bias: _Optional[_Mapping[int, float]] = ..., seed: _Optional[int] = ..., num_logprobs: _Optional[int] = ...) -> None: ...

class Stop(_message.Message):
    __slots__ = ("max_tokens", "stop", "stop_token_ids", "ignore_eos", "include_stop")
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    STOP_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    IGNORE_EOS_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_STOP_FIELD_NUMBER: _ClassVar[int]
    max_tokens: int
    stop: _containers.RepeatedScalarFieldContainer[str]
    stop_token_ids: _containers.RepeatedScalarFieldContainer[int]
    ignore_eos: bool
    include_stop: bool
    def __init__(self, max_tokens: _Optional[int] = ..., stop: _Optional[_Iterable[str]] = ..., stop_token_ids: _Optional[_Iterable[int]] = ..., ignore_eos: bool = ..., include_stop: bool = ...) -> None: ...

class TokenIds(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, ids: _Optional[_Iterable[int]] = ...) -> None: ...

class PrefixPin(_message.Message):
    __slots__ = ("num_tokens", "ttl_s")
    NUM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    num_tokens: int
    ttl_s: float
    def __init__(self, num_tokens: _Optional[int] = ..., ttl_s: _Optional[float] = ...) -> None: ...

class GenerationTask(_message.Message):
    __slots__ = ("request_id", "attempt", "tenant", "prompt_token_ids", "num_sequences", "sampling", "stop", "emitted", "done_children", "deadline_left_s", "priority", "traceparent", "pin")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    NUM_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    EMITTED_FIELD_NUMBER: _ClassVar[int]
    DONE_CHILDREN_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_LEFT_S_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    PIN_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    attempt: int
    tenant: str
    prompt_token_ids: _containers.RepeatedScalarFieldContainer[int]
    num_sequences: int
    sampling: Sampling
    stop: Stop
    emitted: _containers.RepeatedCompositeFieldContainer[TokenIds]
    done_children: _containers.RepeatedScalarFieldContainer[int]
    deadline_left_s: float
    priority: PriorityClass
    traceparent: str
    pin: PrefixPin
    def __init__(self, request_id: _Optional[str] = ..., attempt: _Optional[int] = ..., tenant: _Optional[str] = ..., prompt_token_ids: _Optional[_Iterable[int]] = ..., num_sequences: _Optional[int] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., stop: _Optional[_Union[Stop, _Mapping]] = ..., emitted: _Optional[_Iterable[_Union[TokenIds, _Mapping]]] = ..., done_children: _Optional[_Iterable[int]] = ..., deadline_left_s: _Optional[float] = ..., priority: _Optional[_Union[PriorityClass, str]] = ..., traceparent: _Optional[str] = ..., pin: _Optional[_Union[PrefixPin, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("router_id", "protocol_version")
    ROUTER_ID_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    router_id: str
    protocol_version: int
    def __init__(self, router_id: _Optional[str] = ..., protocol_version: _Optional[int] = ...) -> None: ...

class StartPrefill(_message.Message):
    __slots__ = ("task", "reuse_attempt")
    TASK_FIELD_NUMBER: _ClassVar[int]
    REUSE_ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    task: GenerationTask
    reuse_attempt: int
    def __init__(self, task: _Optional[_Union[GenerationTask, _Mapping]] = ..., reuse_attempt: _Optional[int] = ...) -> None: ...

class ReserveDecode(_message.Message):
    __slots__ = ("task", "source")
    TASK_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    task: GenerationTask
    source: KvSource
    def __init__(self, task: _Optional[_Union[GenerationTask, _Mapping]] = ..., source: _Optional[_Union[KvSource, str]] = ...) -> None: ...

class ForwardGrant(_message.Message):
    __slots__ = ("request_id", "attempt", "grant")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    GRANT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    attempt: int
    grant: bytes
    def __init__(self, request_id: _Optional[str] = ..., attempt: _Optional[int] = ..., grant: _Optional[bytes] = ...) -> None: ...

class Abort(_message.Message):
    __slots__ = ("request_id", "attempt", "reason", "child")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CHILD_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    attempt: int
    reason: str
    child: int
    def __init__(self, request_id: _Optional[str] = ..., attempt: _Optional[int] = ..., reason: _Optional[str] = ..., child: _Optional[int] = ...) -> None: ...

class AttachRequest(_message.Message):
    __slots__ = ("hello", "start_prefill", "reserve_decode", "forward_grant", "abort")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    START_PREFILL_FIELD_NUMBER: _ClassVar[int]
    RESERVE_DECODE_FIELD_NUMBER: _ClassVar[int]
    FORWARD_GRANT_FIELD_NUMBER: _ClassVar[int]
    ABORT_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    start_prefill: StartPrefill
    reserve_decode: ReserveDecode
    forward_grant: ForwardGrant
    abort: Abort
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., start_prefill: _Optional[_Union[StartPrefill, _Mapping]] = ..., reserve_decode: _Optional[_Union[ReserveDecode, _Mapping]] = ..., forward_grant: _Optional[_Union[ForwardGrant, _Mapping]] = ..., abort: _Optional[_Union[Abort, _Mapping]] = ...) -> None: ...

class Granted(_message.Message):
    __slots__ = ("request_id", "attempt", "grant")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    GRANT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    attempt: int
    grant: bytes
    def __init__(self, request_id: _Optional[str] = ..., attempt: _Optional[int] = ..., grant: _Optional[bytes] = ...) -> None: ...

class PrefillDone(_message.Message):
    __slots__ = ("request_id", "attempt", "wait_ms", "compute_ms", "num_cached_tokens", "num_pinned_tokens")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_MS_FIELD_NUMBER: _ClassVar[int]
    NUM_CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_PINNED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    attempt: int
    wait_ms: float
    compute_ms: float
    num_cached_tokens: int
    num_pinned_tokens: int
    def __init__(self, request_id: _Optional[str] = ..., attempt: _Optional[int] = ..., wait_ms: _Optional[float] = ..., compute_ms: _Optional[float] = ..., num_cached_tokens: _Optional[int] = ..., num_pinned_tokens: _Optional[int] = ...) -> None: ...

class HandoverDone(_message.Message):
    __slots__ = ("request_id", "attempt", "num_bytes", "transport", "handover_ms", "exposed_ms", "num_skipped_blocks", "num_skipped_bytes")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    NUM_BYTES_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    HANDOVER_MS_FIELD_NUMBER: _ClassVar[int]
    EXPOSED_MS_FIELD_NUMBER: _ClassVar[int]
    NUM_SKIPPED_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    NUM_SKIPPED_BYTES_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    attempt: int
    num_bytes: int
    transport: str
    handover_ms: float
    exposed_ms: float
    num_skipped_blocks: int
    num_skipped_bytes: int
    def __init__(self, request_id: _Optional[str] = ..., attempt: _Optional[int] = ..., num_bytes: _Optional[int] = ..., transport: _Optional[str] = ..., handover_ms: _Optional[float] = ..., exposed_ms: _Optional[float] = ..., num_skipped_blocks: _Optional[int] = ..., num_skipped_bytes: _Optional[int] = ...) -> None: ...

class AttemptFailed(_message.Message):
    __slots__ = ("request_id", "attempt", "reason", "message", "retryable", "child", "held")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRYABLE_FIELD_NUMBER: _ClassVar[int]
    CHILD_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    attempt: int
    reason: str
    message: str
    retryable: bool
    child: int
    held: bool
    def __init__(self, request_id: _Optional[str] = ..., attempt: _Optional[int] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., retryable: bool = ..., child: _Optional[int] = ..., held: bool = ...) -> None: ...

class AttemptReleased(_message.Message):
    __slots__ = ("request_id", "attempt")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    attempt: int
    def __init__(self, request_id: _Optional[str] = ..., attempt: _Optional[int] = ...) -> None: ...

class RequestEvent(_message.Message):
    __slots__ = ("granted", "prefill_done", "handover_done", "attempt_failed", "attempt_released")
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    PREFILL_DONE_FIELD_NUMBER: _ClassVar[int]
    HANDOVER_DONE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FAILED_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_RELEASED_FIELD_NUMBER: _ClassVar[int]
    granted: Granted
    prefill_done: PrefillDone
    handover_done: HandoverDone
    attempt_failed: AttemptFailed
    attempt_released: AttemptReleased
    def __init__(self, granted: _Optional[_Union[Granted, _Mapping]] = ..., prefill_done: _Optional[_Union[PrefillDone, _Mapping]] = ..., handover_done: _Optional[_Union[HandoverDone, _Mapping]] = ..., attempt_failed: _Optional[_Union[AttemptFailed, _Mapping]] = ..., attempt_released: _Optional[_Union[AttemptReleased, _Mapping]] = ...) -> None: ...

class TokenLogprob(_message.Message):
    __slots__ = ("token_id", "logprob")
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    token_id: int
    logprob: float
    def __init__(self, token_id: _Optional[int] = ..., logprob: _Optional[float] = ...) -> None: ...

class PositionLogprobs(_message.Message):
    __slots__ = ("chosen", "top")
    CHOSEN_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    chosen: TokenLogprob
    top: _containers.RepeatedCompositeFieldContainer[TokenLogprob]
    def __init__(self, chosen: _Optional[_Union[TokenLogprob, _Mapping]] = ..., top: _Optional[_Iterable[_Union[TokenLogprob, _Mapping]]] = ...) -> None: ...

class DeltaExtra(_message.Message):
    __slots__ = ("delta_index", "finish_reason", "matched_stop", "logprobs")
    DELTA_INDEX_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    MATCHED_STOP_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    delta_index: int
    finish_reason: FinishReason
    matched_stop: str
    logprobs: _containers.RepeatedCompositeFieldContainer[PositionLogprobs]
    def __init__(self, delta_index: _Optional[int] = ..., finish_reason: _Optional[_Union[FinishReason, str]] = ..., matched_stop: _Optional[str] = ..., logprobs: _Optional[_Iterable[_Union[PositionLogprobs, _Mapping]]] = ...) -> None: ...

class TokenBatch(_message.Message):
    __slots__ = ("request_ids", "attempts", "request_index", "child", "position", "num_tokens", "token_ids", "text", "extras")
    REQUEST_IDS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_INDEX_FIELD_NUMBER: _ClassVar[int]
    CHILD_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    NUM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    EXTRAS_FIELD_NUMBER: _ClassVar[int]
    request_ids: _containers.RepeatedScalarFieldContainer[str]
    attempts: _containers.RepeatedScalarFieldContainer[int]
    request_index: _containers.RepeatedScalarFieldContainer[int]
    child: _containers.RepeatedScalarFieldContainer[int]
    position: _containers.RepeatedScalarFieldContainer[int]
    num_tokens: _containers.RepeatedScalarFieldContainer[int]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    text: _containers.RepeatedScalarFieldContainer[str]
    extras: _containers.RepeatedCompositeFieldContainer[DeltaExtra]
    def __init__(self, request_ids: _Optional[_Iterable[str]] = ..., attempts: _Optional[_Iterable[int]] = ..., request_index: _Optional[_Iterable[int]] = ..., child: _Optional[_Iterable[int]] = ..., position: _Optional[_Iterable[int]] = ..., num_tokens: _Optional[_Iterable[int]] = ..., token_ids: _Optional[_Iterable[int]] = ..., text: _Optional[_Iterable[str]] = ..., extras: _Optional[_Iterable[_Union[DeltaExtra, _Mapping]]] = ...) -> None: ...

class StepReport(_message.Message):
    __slots__ = ("worker_epoch", "sequence", "tokens", "events", "load")
    WORKER_EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    worker_epoch: int
    sequence: int
    tokens: TokenBatch
    events: _containers.RepeatedCompositeFieldContainer[RequestEvent]
    load: _info_pb2.WorkerLoad
    def __init__(self, worker_epoch: _Optional[int] = ..., sequence: _Optional[int] = ..., tokens: _Optional[_Union[TokenBatch, _Mapping]] = ..., events: _Optional[_Iterable[_Union[RequestEvent, _Mapping]]] = ..., load: _Optional[_Union[_info_pb2.WorkerLoad, _Mapping]] = ...) -> None: ...

class Beat(_message.Message):
    __slots__ = ("worker_epoch", "role", "draining", "load", "step_age_ms")
    WORKER_EPOCH_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    STEP_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    worker_epoch: int
    role: _info_pb2.Role
    draining: bool
    load: _info_pb2.WorkerLoad
    step_age_ms: float
    def __init__(self, worker_epoch: _Optional[int] = ..., role: _Optional[_Union[_info_pb2.Role, str]] = ..., draining: bool = ..., load: _Optional[_Union[_info_pb2.WorkerLoad, _Mapping]] = ..., step_age_ms: _Optional[float] = ...) -> None: ...

class AttachResponse(_message.Message):
    __slots__ = ("step", "beat")
    STEP_FIELD_NUMBER: _ClassVar[int]
    BEAT_FIELD_NUMBER: _ClassVar[int]
    step: StepReport
    beat: Beat
    def __init__(self, step: _Optional[_Union[StepReport, _Mapping]] = ..., beat: _Optional[_Union[Beat, _Mapping]] = ...) -> None: ...

class GetInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetInfoResponse(_message.Message):
    __slots__ = ("info", "latency", "load", "draining", "holdings", "busy_s")
    INFO_FIELD_NUMBER: _ClassVar[int]
    LATENCY_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    HOLDINGS_FIELD_NUMBER: _ClassVar[int]
    BUSY_S_FIELD_NUMBER: _ClassVar[int]
    info: _info_pb2.WorkerInfo
    latency: _info_pb2.LatencyCoefficients
    load: _info_pb2.WorkerLoad
    draining: bool
    holdings: WorkerHoldings
    busy_s: float
    def __init__(self, info: _Optional[_Union[_info_pb2.WorkerInfo, _Mapping]] = ..., latency: _Optional[_Union[_info_pb2.LatencyCoefficients, _Mapping]] = ..., load: _Optional[_Union[_info_pb2.WorkerLoad, _Mapping]] = ..., draining: bool = ..., holdings: _Optional[_Union[WorkerHoldings, _Mapping]] = ..., busy_s: _Optional[float] = ...) -> None: ...

class WorkerHoldings(_message.Message):
    __slots__ = ("num_attempts", "num_handovers", "num_sessions", "num_tasks")
    NUM_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    NUM_HANDOVERS_FIELD_NUMBER: _ClassVar[int]
    NUM_SESSIONS_FIELD_NUMBER: _ClassVar[int]
    NUM_TASKS_FIELD_NUMBER: _ClassVar[int]
    num_attempts: int
    num_handovers: int
    num_sessions: int
    num_tasks: int
    def __init__(self, num_attempts: _Optional[int] = ..., num_handovers: _Optional[int] = ..., num_sessions: _Optional[int] = ..., num_tasks: _Optional[int] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("timeout_s",)
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    timeout_s: float
    def __init__(self, timeout_s: _Optional[float] = ...) -> None: ...

class DrainResponse(_message.Message):
    __slots__ = ("num_left",)
    NUM_LEFT_FIELD_NUMBER: _ClassVar[int]
    num_left: int
    def __init__(self, num_left: _Optional[int] = ...) -> None: ...

class SetRoleRequest(_message.Message):
    __slots__ = ("kind", "worker_id", "epoch", "term", "sequence", "role")
    KIND_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    kind: RoleCommandKind
    worker_id: str
    epoch: int
    term: int
    sequence: int
    role: _info_pb2.Role
    def __init__(self, kind: _Optional[_Union[RoleCommandKind, str]] = ..., worker_id: _Optional[str] = ..., epoch: _Optional[int] = ..., term: _Optional[int] = ..., sequence: _Optional[int] = ..., role: _Optional[_Union[_info_pb2.Role, str]] = ...) -> None: ...

class SetRoleResponse(_message.Message):
    __slots__ = ("worker_id", "epoch", "term", "sequence", "role", "draining", "busy", "refusal")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    BUSY_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    epoch: int
    term: int
    sequence: int
    role: _info_pb2.Role
    draining: bool
    busy: bool
    refusal: str
    def __init__(self, worker_id: _Optional[str] = ..., epoch: _Optional[int] = ..., term: _Optional[int] = ..., sequence: _Optional[int] = ..., role: _Optional[_Union[_info_pb2.Role, str]] = ..., draining: bool = ..., busy: bool = ..., refusal: _Optional[str] = ...) -> None: ...
