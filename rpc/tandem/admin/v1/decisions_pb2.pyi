from tandem.admin.v1 import cluster_pb2 as _cluster_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Admission(_message.Message):
    __slots__ = ("taken", "cause", "client_attempt", "cost_tokens", "num_queued", "load_level", "brown_out", "wait_s", "prefill_wait_s", "slot_wait_s", "block_wait_s", "prefill_s", "error_s", "ttft_s", "bound_s", "limit_s", "retry_after_s", "displaces")
    TAKEN_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    COST_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_QUEUED_FIELD_NUMBER: _ClassVar[int]
    LOAD_LEVEL_FIELD_NUMBER: _ClassVar[int]
    BROWN_OUT_FIELD_NUMBER: _ClassVar[int]
    WAIT_S_FIELD_NUMBER: _ClassVar[int]
    PREFILL_WAIT_S_FIELD_NUMBER: _ClassVar[int]
    SLOT_WAIT_S_FIELD_NUMBER: _ClassVar[int]
    BLOCK_WAIT_S_FIELD_NUMBER: _ClassVar[int]
    PREFILL_S_FIELD_NUMBER: _ClassVar[int]
    ERROR_S_FIELD_NUMBER: _ClassVar[int]
    TTFT_S_FIELD_NUMBER: _ClassVar[int]
    BOUND_S_FIELD_NUMBER: _ClassVar[int]
    LIMIT_S_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_S_FIELD_NUMBER: _ClassVar[int]
    DISPLACES_FIELD_NUMBER: _ClassVar[int]
    taken: bool
    cause: str
    client_attempt: int
    cost_tokens: float
    num_queued: int
    load_level: float
    brown_out: int
    wait_s: float
    prefill_wait_s: float
    slot_wait_s: float
    block_wait_s: float
    prefill_s: float
    error_s: float
    ttft_s: float
    bound_s: float
    limit_s: float
    retry_after_s: float
    displaces: str
    def __init__(self, taken: bool = ..., cause: _Optional[str] = ..., client_attempt: _Optional[int] = ..., cost_tokens: _Optional[float] = ..., num_queued: _Optional[int] = ..., load_level: _Optional[float] = ..., brown_out: _Optional[int] = ..., wait_s: _Optional[float] = ..., prefill_wait_s: _Optional[float] = ..., slot_wait_s: _Optional[float] = ..., block_wait_s: _Optional[float] = ..., prefill_s: _Optional[float] = ..., error_s: _Optional[float] = ..., ttft_s: _Optional[float] = ..., bound_s: _Optional[float] = ..., limit_s: _Optional[float] = ..., retry_after_s: _Optional[float] = ..., displaces: _Optional[str] = ...) -> None: ...

class Waiting(_message.Message):
    __slots__ = ("attempt", "num_waiting", "waits_for")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    NUM_WAITING_FIELD_NUMBER: _ClassVar[int]
    WAITS_FOR_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    num_waiting: int
    waits_for: str
    def __init__(self, attempt: _Optional[int] = ..., num_waiting: _Optional[int] = ..., waits_for: _Optional[str] = ...) -> None: ...

class PrefillCandidate(_message.Message):
    __slots__ = ("worker", "queued_s", "compute_s", "delay_s", "cached_tokens", "cost_s")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    QUEUED_S_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_S_FIELD_NUMBER: _ClassVar[int]
    DELAY_S_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COST_S_FIELD_NUMBER: _ClassVar[int]
    worker: str
    queued_s: float
    compute_s: float
    delay_s: float
    cached_tokens: int
    cost_s: float
    def __init__(self, worker: _Optional[str] = ..., queued_s: _Optional[float] = ..., compute_s: _Optional[float] = ..., delay_s: _Optional[float] = ..., cached_tokens: _Optional[int] = ..., cost_s: _Optional[float] = ...) -> None: ...

class DecodeCandidate(_message.Message):
    __slots__ = ("worker", "num_sequences", "free_blocks", "cached_tokens", "step_s", "handover_s", "local_s")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    NUM_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    FREE_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STEP_S_FIELD_NUMBER: _ClassVar[int]
    HANDOVER_S_FIELD_NUMBER: _ClassVar[int]
    LOCAL_S_FIELD_NUMBER: _ClassVar[int]
    worker: str
    num_sequences: int
    free_blocks: int
    cached_tokens: int
    step_s: float
    handover_s: float
    local_s: float
    def __init__(self, worker: _Optional[str] = ..., num_sequences: _Optional[int] = ..., free_blocks: _Optional[int] = ..., cached_tokens: _Optional[int] = ..., step_s: _Optional[float] = ..., handover_s: _Optional[float] = ..., local_s: _Optional[float] = ...) -> None: ...

class Placed(_message.Message):
    __slots__ = ("attempt", "cause", "decode", "prefill", "prompt_tokens", "num_sequences", "growth_tokens", "waited_s", "num_waiting", "predicted_ttft_s", "predicted_prefill_s", "predicted_handover_s", "cached_tokens", "num_blocks", "prefills", "decodes", "num_prefills", "num_decodes", "avoided", "own_prefill", "asked_s")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    DECODE_FIELD_NUMBER: _ClassVar[int]
    PREFILL_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    GROWTH_TOKENS_FIELD_NUMBER: _ClassVar[int]
    WAITED_S_FIELD_NUMBER: _ClassVar[int]
    NUM_WAITING_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_TTFT_S_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_PREFILL_S_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_HANDOVER_S_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    PREFILLS_FIELD_NUMBER: _ClassVar[int]
    DECODES_FIELD_NUMBER: _ClassVar[int]
    NUM_PREFILLS_FIELD_NUMBER: _ClassVar[int]
    NUM_DECODES_FIELD_NUMBER: _ClassVar[int]
    AVOIDED_FIELD_NUMBER: _ClassVar[int]
    OWN_PREFILL_FIELD_NUMBER: _ClassVar[int]
    ASKED_S_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    cause: str
    decode: str
    prefill: str
    prompt_tokens: int
    num_sequences: int
    growth_tokens: int
    waited_s: float
    num_waiting: int
    predicted_ttft_s: float
    predicted_prefill_s: float
    predicted_handover_s: float
    cached_tokens: int
    num_blocks: int
    prefills: _containers.RepeatedCompositeFieldContainer[PrefillCandidate]
    decodes: _containers.RepeatedCompositeFieldContainer[DecodeCandidate]
    num_prefills: int
    num_decodes: int
    avoided: _containers.RepeatedScalarFieldContainer[str]
    own_prefill: str
    asked_s: float
    def __init__(self, attempt: _Optional[int] = ..., cause: _Optional[str] = ..., decode: _Optional[str] = ..., prefill: _Optional[str] = ..., prompt_tokens: _Optional[int] = ..., num_sequences: _Optional[int] = ..., growth_tokens: _Optional[int] = ..., waited_s: _Optional[float] = ..., num_waiting: _Optional[int] = ..., predicted_ttft_s: _Optional[float] = ..., predicted_prefill_s: _Optional[float] = ..., predicted_handover_s: _Optional[float] = ..., cached_tokens: _Optional[int] = ..., num_blocks: _Optional[int] = ..., prefills: _Optional[_Iterable[_Union[PrefillCandidate, _Mapping]]] = ..., decodes: _Optional[_Iterable[_Union[DecodeCandidate, _Mapping]]] = ..., num_prefills: _Optional[int] = ..., num_decodes: _Optional[int] = ..., avoided: _Optional[_Iterable[str]] = ..., own_prefill: _Optional[str] = ..., asked_s: _Optional[float] = ...) -> None: ...

class Recovery(_message.Message):
    __slots__ = ("failed_attempt", "cause", "worker", "lost", "emitted_tokens", "keeps_kv", "pause_s", "avoid", "avoid_pairs")
    FAILED_ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    EMITTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    KEEPS_KV_FIELD_NUMBER: _ClassVar[int]
    PAUSE_S_FIELD_NUMBER: _ClassVar[int]
    AVOID_FIELD_NUMBER: _ClassVar[int]
    AVOID_PAIRS_FIELD_NUMBER: _ClassVar[int]
    failed_attempt: int
    cause: str
    worker: str
    lost: bool
    emitted_tokens: int
    keeps_kv: bool
    pause_s: float
    avoid: _containers.RepeatedScalarFieldContainer[str]
    avoid_pairs: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, failed_attempt: _Optional[int] = ..., cause: _Optional[str] = ..., worker: _Optional[str] = ..., lost: bool = ..., emitted_tokens: _Optional[int] = ..., keeps_kv: bool = ..., pause_s: _Optional[float] = ..., avoid: _Optional[_Iterable[str]] = ..., avoid_pairs: _Optional[_Iterable[str]] = ...) -> None: ...

class HandoverFailed(_message.Message):
    __slots__ = ("prefill", "decode", "cause", "state")
    PREFILL_FIELD_NUMBER: _ClassVar[int]
    DECODE_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    prefill: str
    decode: str
    cause: str
    state: str
    def __init__(self, prefill: _Optional[str] = ..., decode: _Optional[str] = ..., cause: _Optional[str] = ..., state: _Optional[str] = ...) -> None: ...

class WorkerJudged(_message.Message):
    __slots__ = ("worker", "worker_epoch", "health")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    WORKER_EPOCH_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    worker: str
    worker_epoch: int
    health: str
    def __init__(self, worker: _Optional[str] = ..., worker_epoch: _Optional[int] = ..., health: _Optional[str] = ...) -> None: ...

class Finished(_message.Message):
    __slots__ = ("outcome", "cause", "num_attempts", "prefill", "decode", "prompt_tokens", "cached_tokens", "output_tokens", "predicted_ttft_s", "predicted_prefill_s", "tokenize_ms", "queue_ms", "prefill_ms", "handover_ms", "first_decode_ms", "ttft_ms", "total_ms", "handover_bytes", "handover_skipped_bytes")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    NUM_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    PREFILL_FIELD_NUMBER: _ClassVar[int]
    DECODE_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_TTFT_S_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_PREFILL_S_FIELD_NUMBER: _ClassVar[int]
    TOKENIZE_MS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_MS_FIELD_NUMBER: _ClassVar[int]
    PREFILL_MS_FIELD_NUMBER: _ClassVar[int]
    HANDOVER_MS_FIELD_NUMBER: _ClassVar[int]
    FIRST_DECODE_MS_FIELD_NUMBER: _ClassVar[int]
    TTFT_MS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_MS_FIELD_NUMBER: _ClassVar[int]
    HANDOVER_BYTES_FIELD_NUMBER: _ClassVar[int]
    HANDOVER_SKIPPED_BYTES_FIELD_NUMBER: _ClassVar[int]
    outcome: str
    cause: str
    num_attempts: int
    prefill: str
    decode: str
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    predicted_ttft_s: float
    predicted_prefill_s: float
    tokenize_ms: float
    queue_ms: float
    prefill_ms: float
    handover_ms: float
    first_decode_ms: float
    ttft_ms: float
    total_ms: float
    handover_bytes: int
    handover_skipped_bytes: int
    def __init__(self, outcome: _Optional[str] = ..., cause: _Optional[str] = ..., num_attempts: _Optional[int] = ..., prefill: _Optional[str] = ..., decode: _Optional[str] = ..., prompt_tokens: _Optional[int] = ..., cached_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., predicted_ttft_s: _Optional[float] = ..., predicted_prefill_s: _Optional[float] = ..., tokenize_ms: _Optional[float] = ..., queue_ms: _Optional[float] = ..., prefill_ms: _Optional[float] = ..., handover_ms: _Optional[float] = ..., first_decode_ms: _Optional[float] = ..., ttft_ms: _Optional[float] = ..., total_ms: _Optional[float] = ..., handover_bytes: _Optional[int] = ..., handover_skipped_bytes: _Optional[int] = ...) -> None: ...

class ControllerRound(_message.Message):
    __slots__ = ("term", "policy", "verdict", "current_prefill", "current_decode", "wished_prefill", "wished_decode", "move", "borrow_share", "clamps", "numbers")
    class NumbersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    TERM_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    CURRENT_PREFILL_FIELD_NUMBER: _ClassVar[int]
    CURRENT_DECODE_FIELD_NUMBER: _ClassVar[int]
    WISHED_PREFILL_FIELD_NUMBER: _ClassVar[int]
    WISHED_DECODE_FIELD_NUMBER: _ClassVar[int]
    MOVE_FIELD_NUMBER: _ClassVar[int]
    BORROW_SHARE_FIELD_NUMBER: _ClassVar[int]
    CLAMPS_FIELD_NUMBER: _ClassVar[int]
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    term: int
    policy: str
    verdict: str
    current_prefill: int
    current_decode: int
    wished_prefill: int
    wished_decode: int
    move: str
    borrow_share: float
    clamps: _containers.RepeatedScalarFieldContainer[str]
    numbers: _containers.ScalarMap[str, float]
    def __init__(self, term: _Optional[int] = ..., policy: _Optional[str] = ..., verdict: _Optional[str] = ..., current_prefill: _Optional[int] = ..., current_decode: _Optional[int] = ..., wished_prefill: _Optional[int] = ..., wished_decode: _Optional[int] = ..., move: _Optional[str] = ..., borrow_share: _Optional[float] = ..., clamps: _Optional[_Iterable[str]] = ..., numbers: _Optional[_Mapping[str, float]] = ...) -> None: ...

class Decision(_message.Message):
    __slots__ = ("sequence", "unix_s", "source", "reason", "request_id", "tenant_hash", "priority", "admission", "waiting", "placement", "recovery", "handover", "worker", "end", "controller")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    UNIX_S_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_HASH_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    ADMISSION_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    RECOVERY_FIELD_NUMBER: _ClassVar[int]
    HANDOVER_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    CONTROLLER_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    unix_s: float
    source: str
    reason: str
    request_id: str
    tenant_hash: str
    priority: str
    admission: Admission
    waiting: Waiting
    placement: Placed
    recovery: Recovery
    handover: HandoverFailed
    worker: WorkerJudged
    end: Finished
    controller: ControllerRound
    def __init__(self, sequence: _Optional[int] = ..., unix_s: _Optional[float] = ..., source: _Optional[str] = ..., reason: _Optional[str] = ..., request_id: _Optional[str] = ..., tenant_hash: _Optional[str] = ..., priority: _Optional[str] = ..., admission: _Optional[_Union[Admission, _Mapping]] = ..., waiting: _Optional[_Union[Waiting, _Mapping]] = ..., placement: _Optional[_Union[Placed, _Mapping]] = ..., recovery: _Optional[_Union[Recovery, _Mapping]] = ..., handover: _Optional[_Union[HandoverFailed, _Mapping]] = ..., worker: _Optional[_Union[WorkerJudged, _Mapping]] = ..., end: _Optional[_Union[Finished, _Mapping]] = ..., controller: _Optional[_Union[ControllerRound, _Mapping]] = ...) -> None: ...

class DecisionFilter(_message.Message):
    __slots__ = ("kinds", "request_id", "tenant", "since_unix_s", "limit")
    KINDS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    SINCE_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    kinds: _containers.RepeatedScalarFieldContainer[str]
    request_id: str
    tenant: str
    since_unix_s: float
    limit: int
    def __init__(self, kinds: _Optional[_Iterable[str]] = ..., request_id: _Optional[str] = ..., tenant: _Optional[str] = ..., since_unix_s: _Optional[float] = ..., limit: _Optional[int] = ...) -> None: ...

class DecisionPage(_message.Message):
    __slots__ = ("decisions", "num_forgotten", "num_unwritten")
    DECISIONS_FIELD_NUMBER: _ClassVar[int]
    NUM_FORGOTTEN_FIELD_NUMBER: _ClassVar[int]
    NUM_UNWRITTEN_FIELD_NUMBER: _ClassVar[int]
    decisions: _containers.RepeatedCompositeFieldContainer[Decision]
    num_forgotten: int
    num_unwritten: int
    def __init__(self, decisions: _Optional[_Iterable[_Union[Decision, _Mapping]]] = ..., num_forgotten: _Optional[int] = ..., num_unwritten: _Optional[int] = ...) -> None: ...

class ListDecisionsRequest(_message.Message):
    __slots__ = ("filter",)
    FILTER_FIELD_NUMBER: _ClassVar[int]
    filter: DecisionFilter
    def __init__(self, filter: _Optional[_Union[DecisionFilter, _Mapping]] = ...) -> None: ...

class ListDecisionsResponse(_message.Message):
    __slots__ = ("page",)
    PAGE_FIELD_NUMBER: _ClassVar[int]
    page: DecisionPage
    def __init__(self, page: _Optional[_Union[DecisionPage, _Mapping]] = ...) -> None: ...

class FollowDecisionsRequest(_message.Message):
    __slots__ = ("filter",)
    FILTER_FIELD_NUMBER: _ClassVar[int]
    filter: DecisionFilter
    def __init__(self, filter: _Optional[_Union[DecisionFilter, _Mapping]] = ...) -> None: ...

class FollowDecisionsResponse(_message.Message):
    __slots__ = ("page",)
    PAGE_FIELD_NUMBER: _ClassVar[int]
    page: DecisionPage
    def __init__(self, page: _Optional[_Union[DecisionPage, _Mapping]] = ...) -> None: ...

class ExplainRequestRequest(_message.Message):
    __slots__ = ("request_id",)
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    def __init__(self, request_id: _Optional[str] = ...) -> None: ...

class ExplainRequestResponse(_message.Message):
    __slots__ = ("page",)
    PAGE_FIELD_NUMBER: _ClassVar[int]
    page: DecisionPage
    def __init__(self, page: _Optional[_Union[DecisionPage, _Mapping]] = ...) -> None: ...

class RecordDecisionsRequest(_message.Message):
    __slots__ = ("source", "decisions")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    DECISIONS_FIELD_NUMBER: _ClassVar[int]
    source: str
    decisions: _containers.RepeatedCompositeFieldContainer[Decision]
    def __init__(self, source: _Optional[str] = ..., decisions: _Optional[_Iterable[_Union[Decision, _Mapping]]] = ...) -> None: ...

class RecordDecisionsResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchClusterRequest(_message.Message):
    __slots__ = ("interval_s",)
    INTERVAL_S_FIELD_NUMBER: _ClassVar[int]
    interval_s: float
    def __init__(self, interval_s: _Optional[float] = ...) -> None: ...

class ClassSample(_message.Message):
    __slots__ = ("priority", "num_queued", "num_ok", "num_shed", "num_other", "num_in_time", "ttft_p50_s", "ttft_p95_s")
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    NUM_QUEUED_FIELD_NUMBER: _ClassVar[int]
    NUM_OK_FIELD_NUMBER: _ClassVar[int]
    NUM_SHED_FIELD_NUMBER: _ClassVar[int]
    NUM_OTHER_FIELD_NUMBER: _ClassVar[int]
    NUM_IN_TIME_FIELD_NUMBER: _ClassVar[int]
    TTFT_P50_S_FIELD_NUMBER: _ClassVar[int]
    TTFT_P95_S_FIELD_NUMBER: _ClassVar[int]
    priority: str
    num_queued: int
    num_ok: int
    num_shed: int
    num_other: int
    num_in_time: int
    ttft_p50_s: float
    ttft_p95_s: float
    def __init__(self, priority: _Optional[str] = ..., num_queued: _Optional[int] = ..., num_ok: _Optional[int] = ..., num_shed: _Optional[int] = ..., num_other: _Optional[int] = ..., num_in_time: _Optional[int] = ..., ttft_p50_s: _Optional[float] = ..., ttft_p95_s: _Optional[float] = ...) -> None: ...

class ClusterSample(_message.Message):
    __slots__ = ("unix_s", "period_s", "num_prefill", "num_decode", "num_queued", "num_running", "output_tokens", "prompt_tokens", "cached_tokens", "num_split", "num_local", "num_retried", "classes")
    UNIX_S_FIELD_NUMBER: _ClassVar[int]
    PERIOD_S_FIELD_NUMBER: _ClassVar[int]
    NUM_PREFILL_FIELD_NUMBER: _ClassVar[int]
    NUM_DECODE_FIELD_NUMBER: _ClassVar[int]
    NUM_QUEUED_FIELD_NUMBER: _ClassVar[int]
    NUM_RUNNING_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_SPLIT_FIELD_NUMBER: _ClassVar[int]
    NUM_LOCAL_FIELD_NUMBER: _ClassVar[int]
    NUM_RETRIED_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    unix_s: float
    period_s: float
    num_prefill: int
    num_decode: int
    num_queued: int
    num_running: int
    output_tokens: int
    prompt_tokens: int
    cached_tokens: int
    num_split: int
    num_local: int
    num_retried: int
    classes: _containers.RepeatedCompositeFieldContainer[ClassSample]
    def __init__(self, unix_s: _Optional[float] = ..., period_s: _Optional[float] = ..., num_prefill: _Optional[int] = ..., num_decode: _Optional[int] = ..., num_queued: _Optional[int] = ..., num_running: _Optional[int] = ..., output_tokens: _Optional[int] = ..., prompt_tokens: _Optional[int] = ..., cached_tokens: _Optional[int] = ..., num_split: _Optional[int] = ..., num_local: _Optional[int] = ..., num_retried: _Optional[int] = ..., classes: _Optional[_Iterable[_Union[ClassSample, _Mapping]]] = ...) -> None: ...

class WatchClusterResponse(_message.Message):
    __slots__ = ("status", "samples")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    status: _cluster_pb2.GetStatusResponse
    samples: _containers.RepeatedCompositeFieldContainer[ClusterSample]
    def __init__(self, status: _Optional[_Union[_cluster_pb2.GetStatusResponse, _Mapping]] = ..., samples: _Optional[_Iterable[_Union[ClusterSample, _Mapping]]] = ...) -> None: ...
