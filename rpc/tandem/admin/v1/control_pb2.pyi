from tandem.worker.v1 import worker_pb2 as _worker_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EndedOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ENDED_OUTCOME_UNSPECIFIED: _ClassVar[EndedOutcome]
    ENDED_OUTCOME_OK: _ClassVar[EndedOutcome]
    ENDED_OUTCOME_CANCELLED: _ClassVar[EndedOutcome]
    ENDED_OUTCOME_DEADLINE: _ClassVar[EndedOutcome]
    ENDED_OUTCOME_SHED: _ClassVar[EndedOutcome]
    ENDED_OUTCOME_FAILED: _ClassVar[EndedOutcome]
ENDED_OUTCOME_UNSPECIFIED: EndedOutcome
ENDED_OUTCOME_OK: EndedOutcome
ENDED_OUTCOME_CANCELLED: EndedOutcome
ENDED_OUTCOME_DEADLINE: EndedOutcome
ENDED_OUTCOME_SHED: EndedOutcome
ENDED_OUTCOME_FAILED: EndedOutcome

class GetTrafficRequest(_message.Message):
    __slots__ = ("window_s",)
    WINDOW_S_FIELD_NUMBER: _ClassVar[int]
    window_s: float
    def __init__(self, window_s: _Optional[float] = ...) -> None: ...

class ClassArrivals(_message.Message):
    __slots__ = ("priority", "ages_s")
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    AGES_S_FIELD_NUMBER: _ClassVar[int]
    priority: _worker_pb2.PriorityClass
    ages_s: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, priority: _Optional[_Union[_worker_pb2.PriorityClass, str]] = ..., ages_s: _Optional[_Iterable[float]] = ...) -> None: ...

class EndedRequest(_message.Message):
    __slots__ = ("age_s", "priority", "outcome", "new_tokens", "cached_tokens", "output_tokens", "ttft_s", "tpot_s", "gap_p95_s", "e2e_s")
    AGE_S_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TTFT_S_FIELD_NUMBER: _ClassVar[int]
    TPOT_S_FIELD_NUMBER: _ClassVar[int]
    GAP_P95_S_FIELD_NUMBER: _ClassVar[int]
    E2E_S_FIELD_NUMBER: _ClassVar[int]
    age_s: float
    priority: _worker_pb2.PriorityClass
    outcome: EndedOutcome
    new_tokens: int
    cached_tokens: int
    output_tokens: int
    ttft_s: float
    tpot_s: float
    gap_p95_s: float
    e2e_s: float
    def __init__(self, age_s: _Optional[float] = ..., priority: _Optional[_Union[_worker_pb2.PriorityClass, str]] = ..., outcome: _Optional[_Union[EndedOutcome, str]] = ..., new_tokens: _Optional[int] = ..., cached_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., ttft_s: _Optional[float] = ..., tpot_s: _Optional[float] = ..., gap_p95_s: _Optional[float] = ..., e2e_s: _Optional[float] = ...) -> None: ...

class OpenRequest(_message.Message):
    __slots__ = ("age_s", "priority", "new_tokens", "cached_tokens", "output_tokens", "max_output_tokens")
    AGE_S_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    age_s: float
    priority: _worker_pb2.PriorityClass
    new_tokens: int
    cached_tokens: int
    output_tokens: int
    max_output_tokens: int
    def __init__(self, age_s: _Optional[float] = ..., priority: _Optional[_Union[_worker_pb2.PriorityClass, str]] = ..., new_tokens: _Optional[int] = ..., cached_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., max_output_tokens: _Optional[int] = ...) -> None: ...

class GetTrafficResponse(_message.Message):
    __slots__ = ("router_id", "window_s", "arrivals", "ended", "queued_work_s", "borrow_share", "open")
    ROUTER_ID_FIELD_NUMBER: _ClassVar[int]
    WINDOW_S_FIELD_NUMBER: _ClassVar[int]
    ARRIVALS_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    QUEUED_WORK_S_FIELD_NUMBER: _ClassVar[int]
    BORROW_SHARE_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    router_id: str
    window_s: float
    arrivals: _containers.RepeatedCompositeFieldContainer[ClassArrivals]
    ended: _containers.RepeatedCompositeFieldContainer[EndedRequest]
    queued_work_s: float
    borrow_share: float
    open: _containers.RepeatedCompositeFieldContainer[OpenRequest]
    def __init__(self, router_id: _Optional[str] = ..., window_s: _Optional[float] = ..., arrivals: _Optional[_Iterable[_Union[ClassArrivals, _Mapping]]] = ..., ended: _Optional[_Iterable[_Union[EndedRequest, _Mapping]]] = ..., queued_work_s: _Optional[float] = ..., borrow_share: _Optional[float] = ..., open: _Optional[_Iterable[_Union[OpenRequest, _Mapping]]] = ...) -> None: ...

class SetGuidanceRequest(_message.Message):
    __slots__ = ("term", "borrow_share", "ttl_s", "targets", "num_routers")
    TERM_FIELD_NUMBER: _ClassVar[int]
    BORROW_SHARE_FIELD_NUMBER: _ClassVar[int]
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    NUM_ROUTERS_FIELD_NUMBER: _ClassVar[int]
    term: int
    borrow_share: float
    ttl_s: float
    targets: _containers.RepeatedCompositeFieldContainer[ClassTargets]
    num_routers: int
    def __init__(self, term: _Optional[int] = ..., borrow_share: _Optional[float] = ..., ttl_s: _Optional[float] = ..., targets: _Optional[_Iterable[_Union[ClassTargets, _Mapping]]] = ..., num_routers: _Optional[int] = ...) -> None: ...

class ClassTargets(_message.Message):
    __slots__ = ("priority", "ttft_s", "e2e_s")
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    TTFT_S_FIELD_NUMBER: _ClassVar[int]
    E2E_S_FIELD_NUMBER: _ClassVar[int]
    priority: _worker_pb2.PriorityClass
    ttft_s: float
    e2e_s: float
    def __init__(self, priority: _Optional[_Union[_worker_pb2.PriorityClass, str]] = ..., ttft_s: _Optional[float] = ..., e2e_s: _Optional[float] = ...) -> None: ...

class SetGuidanceResponse(_message.Message):
    __slots__ = ("term",)
    TERM_FIELD_NUMBER: _ClassVar[int]
    term: int
    def __init__(self, term: _Optional[int] = ...) -> None: ...

class GetRecordRequest(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: str
    def __init__(self, key: _Optional[str] = ...) -> None: ...

class GetRecordResponse(_message.Message):
    __slots__ = ("version", "value")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    version: int
    value: bytes
    def __init__(self, version: _Optional[int] = ..., value: _Optional[bytes] = ...) -> None: ...

class PutRecordRequest(_message.Message):
    __slots__ = ("key", "value", "expected_version")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: bytes
    expected_version: int
    def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ..., expected_version: _Optional[int] = ...) -> None: ...

class PutRecordResponse(_message.Message):
    __slots__ = ("done", "version", "value")
    DONE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    done: bool
    version: int
    value: bytes
    def __init__(self, done: bool = ..., version: _Optional[int] = ..., value: _Optional[bytes] = ...) -> None: ...

class ApplyPolicyRequest(_message.Message):
    __slots__ = ("policy",)
    POLICY_FIELD_NUMBER: _ClassVar[int]
    policy: bytes
    def __init__(self, policy: _Optional[bytes] = ...) -> None: ...

class ApplyPolicyResponse(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: int
    def __init__(self, version: _Optional[int] = ...) -> None: ...

class GetPolicyRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetPolicyResponse(_message.Message):
    __slots__ = ("version", "policy")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    version: int
    policy: bytes
    def __init__(self, version: _Optional[int] = ..., policy: _Optional[bytes] = ...) -> None: ...
