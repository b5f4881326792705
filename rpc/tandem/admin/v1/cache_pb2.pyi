from tandem.worker.v1 import cache_pb2 as _cache_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetCacheStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchedCache(_message.Message):
    __slots__ = ("worker_id", "role", "watching", "stale_ms", "num_behind", "num_gaps", "num_snapshots", "stats")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    WATCHING_FIELD_NUMBER: _ClassVar[int]
    STALE_MS_FIELD_NUMBER: _ClassVar[int]
    NUM_BEHIND_FIELD_NUMBER: _ClassVar[int]
    NUM_GAPS_FIELD_NUMBER: _ClassVar[int]
    NUM_SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    STATS_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    role: str
    watching: bool
    stale_ms: float
    num_behind: int
    num_gaps: int
    num_snapshots: int
    stats: _cache_pb2.GetCacheStatsResponse
    def __init__(self, worker_id: _Optional[str] = ..., role: _Optional[str] = ..., watching: bool = ..., stale_ms: _Optional[float] = ..., num_behind: _Optional[int] = ..., num_gaps: _Optional[int] = ..., num_snapshots: _Optional[int] = ..., stats: _Optional[_Union[_cache_pb2.GetCacheStatsResponse, _Mapping]] = ...) -> None: ...

class IndexStatus(_message.Message):
    __slots__ = ("num_blocks", "max_blocks", "num_overflowed", "num_expected")
    NUM_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    MAX_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    NUM_OVERFLOWED_FIELD_NUMBER: _ClassVar[int]
    NUM_EXPECTED_FIELD_NUMBER: _ClassVar[int]
    num_blocks: int
    max_blocks: int
    num_overflowed: int
    num_expected: int
    def __init__(self, num_blocks: _Optional[int] = ..., max_blocks: _Optional[int] = ..., num_overflowed: _Optional[int] = ..., num_expected: _Optional[int] = ...) -> None: ...

class TenantUsage(_message.Message):
    __slots__ = ("tenant", "num_requests", "cached_tokens", "uncached_tokens")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    NUM_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    UNCACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    num_requests: int
    cached_tokens: int
    uncached_tokens: int
    def __init__(self, tenant: _Optional[str] = ..., num_requests: _Optional[int] = ..., cached_tokens: _Optional[int] = ..., uncached_tokens: _Optional[int] = ...) -> None: ...

class GetCacheStatusResponse(_message.Message):
    __slots__ = ("enabled", "index", "workers", "tenants")
    ENABLED_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    TENANTS_FIELD_NUMBER: _ClassVar[int]
    enabled: bool
    index: IndexStatus
    workers: _containers.RepeatedCompositeFieldContainer[WatchedCache]
    tenants: _containers.RepeatedCompositeFieldContainer[TenantUsage]
    def __init__(self, enabled: bool = ..., index: _Optional[_Union[IndexStatus, _Mapping]] = ..., workers: _Optional[_Iterable[_Union[WatchedCache, _Mapping]]] = ..., tenants: _Optional[_Iterable[_Union[TenantUsage, _Mapping]]] = ...) -> None: ...

class FlushPrefixCacheRequest(_message.Message):
    __slots__ = ("tenant",)
    TENANT_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    def __init__(self, tenant: _Optional[str] = ...) -> None: ...

class FlushPrefixCacheResponse(_message.Message):
    __slots__ = ("num_blocks", "num_workers", "num_missed", "num_pending")
    NUM_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    NUM_WORKERS_FIELD_NUMBER: _ClassVar[int]
    NUM_MISSED_FIELD_NUMBER: _ClassVar[int]
    NUM_PENDING_FIELD_NUMBER: _ClassVar[int]
    num_blocks: int
    num_workers: int
    num_missed: int
    num_pending: int
    def __init__(self, num_blocks: _Optional[int] = ..., num_workers: _Optional[int] = ..., num_missed: _Optional[int] = ..., num_pending: _Optional[int] = ...) -> None: ...
