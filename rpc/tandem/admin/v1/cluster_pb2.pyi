from tandem.worker.v1 import info_pb2 as _info_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WorkerState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WORKER_STATE_UNSPECIFIED: _ClassVar[WorkerState]
    WORKER_STATE_CONNECTING: _ClassVar[WorkerState]
    WORKER_STATE_READY: _ClassVar[WorkerState]
    WORKER_STATE_SUSPECT: _ClassVar[WorkerState]
    WORKER_STATE_DRAINING: _ClassVar[WorkerState]
    WORKER_STATE_LOST: _ClassVar[WorkerState]

class PairState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PAIR_STATE_UNSPECIFIED: _ClassVar[PairState]
    PAIR_STATE_FAILING: _ClassVar[PairState]
    PAIR_STATE_OPEN: _ClassVar[PairState]
    PAIR_STATE_PROBING: _ClassVar[PairState]
    PAIR_STATE_UNEQUAL: _ClassVar[PairState]

class ServingMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SERVING_MODE_UNSPECIFIED: _ClassVar[ServingMode]
    SERVING_MODE_SPLIT: _ClassVar[ServingMode]
    SERVING_MODE_MIXED: _ClassVar[ServingMode]
    SERVING_MODE_AGGREGATED: _ClassVar[ServingMode]
WORKER_STATE_UNSPECIFIED: WorkerState
WORKER_STATE_CONNECTING: WorkerState
WORKER_STATE_READY: WorkerState
WORKER_STATE_SUSPECT: WorkerState
WORKER_STATE_DRAINING: WorkerState
WORKER_STATE_LOST: WorkerState
PAIR_STATE_UNSPECIFIED: PairState
PAIR_STATE_FAILING: PairState
PAIR_STATE_OPEN: PairState
PAIR_STATE_PROBING: PairState
PAIR_STATE_UNEQUAL: PairState
SERVING_MODE_UNSPECIFIED: ServingMode
SERVING_MODE_SPLIT: ServingMode
SERVING_MODE_MIXED: ServingMode
SERVING_MODE_AGGREGATED: ServingMode

class WorkerStatus(_message.Message):
    __slots__ = ("info", "state", "load", "silent_ms")
    INFO_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    SILENT_MS_FIELD_NUMBER: _ClassVar[int]
    info: _info_pb2.WorkerInfo
    state: WorkerState
    load: _info_pb2.WorkerLoad
    silent_ms: float
    def __init__(self, info: _Optional[_Union[_info_pb2.WorkerInfo, _Mapping]] = ..., state: _Optional[_Union[WorkerState, str]] = ..., load: _Optional[_Union[_info_pb2.WorkerLoad, _Mapping]] = ..., silent_ms: _Optional[float] = ...) -> None: ...

class PairStatus(_message.Message):
    __slots__ = ("prefill_worker_id", "decode_worker_id", "state", "num_failures", "last_reason", "probe_in_ms")
    PREFILL_WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    DECODE_WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    NUM_FAILURES_FIELD_NUMBER: _ClassVar[int]
    LAST_REASON_FIELD_NUMBER: _ClassVar[int]
    PROBE_IN_MS_FIELD_NUMBER: _ClassVar[int]
    prefill_worker_id: str
    decode_worker_id: str
    state: PairState
    num_failures: int
    last_reason: str
    probe_in_ms: float
    def __init__(self, prefill_worker_id: _Optional[str] = ..., decode_worker_id: _Optional[str] = ..., state: _Optional[_Union[PairState, str]] = ..., num_failures: _Optional[int] = ..., last_reason: _Optional[str] = ..., probe_in_ms: _Optional[float] = ...) -> None: ...

class ServingStatus(_message.Message):
    __slots__ = ("mode", "cause", "since_s", "num_placed")
    class NumPlacedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    MODE_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    SINCE_S_FIELD_NUMBER: _ClassVar[int]
    NUM_PLACED_FIELD_NUMBER: _ClassVar[int]
    mode: ServingMode
    cause: str
    since_s: float
    num_placed: _containers.ScalarMap[str, int]
    def __init__(self, mode: _Optional[_Union[ServingMode, str]] = ..., cause: _Optional[str] = ..., since_s: _Optional[float] = ..., num_placed: _Optional[_Mapping[str, int]] = ...) -> None: ...

class TierHits(_message.Message):
    __slots__ = ("tier", "hit_rate")
    TIER_FIELD_NUMBER: _ClassVar[int]
    HIT_RATE_FIELD_NUMBER: _ClassVar[int]
    tier: str
    hit_rate: float
    def __init__(self, tier: _Optional[str] = ..., hit_rate: _Optional[float] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("model", "ready", "not_ready_reason", "router_id", "uptime_s", "num_queued", "num_running", "num_ended", "workers", "pairs", "num_stale", "num_isolated", "num_in_flight", "num_tasks", "serving", "cache")
    class NumEndedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    NOT_READY_REASON_FIELD_NUMBER: _ClassVar[int]
    ROUTER_ID_FIELD_NUMBER: _ClassVar[int]
    UPTIME_S_FIELD_NUMBER: _ClassVar[int]
    NUM_QUEUED_FIELD_NUMBER: _ClassVar[int]
    NUM_RUNNING_FIELD_NUMBER: _ClassVar[int]
    NUM_ENDED_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    PAIRS_FIELD_NUMBER: _ClassVar[int]
    NUM_STALE_FIELD_NUMBER: _ClassVar[int]
    NUM_ISOLATED_FIELD_NUMBER: _ClassVar[int]
    NUM_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    NUM_TASKS_FIELD_NUMBER: _ClassVar[int]
    SERVING_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    model: str
    ready: bool
    not_ready_reason: str
    router_id: str
    uptime_s: float
    num_queued: int
    num_running: int
    num_ended: _containers.ScalarMap[str, int]
    workers: _containers.RepeatedCompositeFieldContainer[WorkerStatus]
    pairs: _containers.RepeatedCompositeFieldContainer[PairStatus]
    num_stale: int
    num_isolated: int
    num_in_flight: int
    num_tasks: int
    serving: ServingStatus
    cache: _containers.RepeatedCompositeFieldContainer[TierHits]
    def __init__(self, model: _Optional[str] = ..., ready: bool = ..., not_ready_reason: _Optional[str] = ..., router_id: _Optional[str] = ..., uptime_s: _Optional[float] = ..., num_queued: _Optional[int] = ..., num_running: _Optional[int] = ..., num_ended: _Optional[_Mapping[str, int]] = ..., workers: _Optional[_Iterable[_Union[WorkerStatus, _Mapping]]] = ..., pairs: _Optional[_Iterable[_Union[PairStatus, _Mapping]]] = ..., num_stale: _Optional[int] = ..., num_isolated: _Optional[int] = ..., num_in_flight: _Optional[int] = ..., num_tasks: _Optional[int] = ..., serving: _Optional[_Union[ServingStatus, _Mapping]] = ..., cache: _Optional[_Iterable[_Union[TierHits, _Mapping]]] = ...) -> None: ...

class ListWorkersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListWorkersResponse(_message.Message):
    __slots__ = ("workers",)
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    workers: _containers.RepeatedCompositeFieldContainer[WorkerStatus]
    def __init__(self, workers: _Optional[_Iterable[_Union[WorkerStatus, _Mapping]]] = ...) -> None: ...

class DrainWorkerRequest(_message.Message):
    __slots__ = ("worker_id", "timeout_s")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    timeout_s: float
    def __init__(self, worker_id: _Optional[str] = ..., timeout_s: _Optional[float] = ...) -> None: ...

class DrainWorkerResponse(_message.Message):
    __slots__ = ("num_left",)
    NUM_LEFT_FIELD_NUMBER: _ClassVar[int]
    num_left: int
    def __init__(self, num_left: _Optional[int] = ...) -> None: ...
