from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class KvTier(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KV_TIER_UNSPECIFIED: _ClassVar[KvTier]
    KV_TIER_DEVICE: _ClassVar[KvTier]
    KV_TIER_HOST: _ClassVar[KvTier]
    KV_TIER_REMOTE: _ClassVar[KvTier]
KV_TIER_UNSPECIFIED: KvTier
KV_TIER_DEVICE: KvTier
KV_TIER_HOST: KvTier
KV_TIER_REMOTE: KvTier

class KvBlocks(_message.Message):
    __slots__ = ("keys", "tier")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    keys: bytes
    tier: KvTier
    def __init__(self, keys: _Optional[bytes] = ..., tier: _Optional[_Union[KvTier, str]] = ...) -> None: ...

class KvCleared(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class KvEvent(_message.Message):
    __slots__ = ("sequence", "stored", "removed", "cleared")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    CLEARED_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    stored: KvBlocks
    removed: KvBlocks
    cleared: KvCleared
    def __init__(self, sequence: _Optional[int] = ..., stored: _Optional[_Union[KvBlocks, _Mapping]] = ..., removed: _Optional[_Union[KvBlocks, _Mapping]] = ..., cleared: _Optional[_Union[KvCleared, _Mapping]] = ...) -> None: ...

class KvSnapshotPart(_message.Message):
    __slots__ = ("sequence", "held", "first", "last")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    held: _containers.RepeatedCompositeFieldContainer[KvBlocks]
    first: bool
    last: bool
    def __init__(self, sequence: _Optional[int] = ..., held: _Optional[_Iterable[_Union[KvBlocks, _Mapping]]] = ..., first: bool = ..., last: bool = ...) -> None: ...

class WatchKvEventsRequest(_message.Message):
    __slots__ = ("epoch", "start_sequence")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    START_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    start_sequence: int
    def __init__(self, epoch: _Optional[int] = ..., start_sequence: _Optional[int] = ...) -> None: ...

class WatchKvEventsResponse(_message.Message):
    __slots__ = ("epoch", "last_sequence", "waited_ms", "snapshot", "events", "costs")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    WAITED_MS_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    COSTS_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    last_sequence: int
    waited_ms: float
    snapshot: KvSnapshotPart
    events: _containers.RepeatedCompositeFieldContainer[KvEvent]
    costs: _containers.RepeatedCompositeFieldContainer[KvTierCost]
    def __init__(self, epoch: _Optional[int] = ..., last_sequence: _Optional[int] = ..., waited_ms: _Optional[float] = ..., snapshot: _Optional[_Union[KvSnapshotPart, _Mapping]] = ..., events: _Optional[_Iterable[_Union[KvEvent, _Mapping]]] = ..., costs: _Optional[_Iterable[_Union[KvTierCost, _Mapping]]] = ...) -> None: ...

class KvTierCost(_message.Message):
    __slots__ = ("tier", "fixed_ms", "ns_per_byte")
    TIER_FIELD_NUMBER: _ClassVar[int]
    FIXED_MS_FIELD_NUMBER: _ClassVar[int]
    NS_PER_BYTE_FIELD_NUMBER: _ClassVar[int]
    tier: KvTier
    fixed_ms: float
    ns_per_byte: float
    def __init__(self, tier: _Optional[_Union[KvTier, str]] = ..., fixed_ms: _Optional[float] = ..., ns_per_byte: _Optional[float] = ...) -> None: ...

class FlushCacheRequest(_message.Message):
    __slots__ = ("tenant",)
    TENANT_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    def __init__(self, tenant: _Optional[str] = ...) -> None: ...

class FlushCacheResponse(_message.Message):
    __slots__ = ("num_blocks", "redis_pending")
    NUM_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    REDIS_PENDING_FIELD_NUMBER: _ClassVar[int]
    num_blocks: int
    redis_pending: bool
    def __init__(self, num_blocks: _Optional[int] = ..., redis_pending: bool = ...) -> None: ...

class GetCacheStatsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class KvTierStats(_message.Message):
    __slots__ = ("tier", "num_blocks", "num_hit_tokens", "num_bytes", "num_demoted", "num_promoted", "num_rejected", "num_skipped")
    TIER_FIELD_NUMBER: _ClassVar[int]
    NUM_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    NUM_HIT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_BYTES_FIELD_NUMBER: _ClassVar[int]
    NUM_DEMOTED_FIELD_NUMBER: _ClassVar[int]
    NUM_PROMOTED_FIELD_NUMBER: _ClassVar[int]
    NUM_REJECTED_FIELD_NUMBER: _ClassVar[int]
    NUM_SKIPPED_FIELD_NUMBER: _ClassVar[int]
    tier: KvTier
    num_blocks: int
    num_hit_tokens: int
    num_bytes: int
    num_demoted: int
    num_promoted: int
    num_rejected: int
    num_skipped: int
    def __init__(self, tier: _Optional[_Union[KvTier, str]] = ..., num_blocks: _Optional[int] = ..., num_hit_tokens: _Optional[int] = ..., num_bytes: _Optional[int] = ..., num_demoted: _Optional[int] = ..., num_promoted: _Optional[int] = ..., num_rejected: _Optional[int] = ..., num_skipped: _Optional[int] = ...) -> None: ...

class TenantCacheStats(_message.Message):
    __slots__ = ("tenant", "num_blocks")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    NUM_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    num_blocks: int
    def __init__(self, tenant: _Optional[str] = ..., num_blocks: _Optional[int] = ...) -> None: ...

class GetCacheStatsResponse(_message.Message):
    __slots__ = ("num_blocks", "num_idle", "num_kept", "num_prompts", "num_asked_tokens", "num_cached_tokens", "num_evicted", "tiers", "tenants", "num_unpinned")
    NUM_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    NUM_IDLE_FIELD_NUMBER: _ClassVar[int]
    NUM_KEPT_FIELD_NUMBER: _ClassVar[int]
    NUM_PROMPTS_FIELD_NUMBER: _ClassVar[int]
    NUM_ASKED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_EVICTED_FIELD_NUMBER: _ClassVar[int]
    TIERS_FIELD_NUMBER: _ClassVar[int]
    TENANTS_FIELD_NUMBER: _ClassVar[int]
    NUM_UNPINNED_FIELD_NUMBER: _ClassVar[int]
    num_blocks: int
    num_idle: int
    num_kept: int
    num_prompts: int
    num_asked_tokens: int
    num_cached_tokens: int
    num_evicted: int
    tiers: _containers.RepeatedCompositeFieldContainer[KvTierStats]
    tenants: _containers.RepeatedCompositeFieldContainer[TenantCacheStats]
    num_unpinned: int
    def __init__(self, num_blocks: _Optional[int] = ..., num_idle: _Optional[int] = ..., num_kept: _Optional[int] = ..., num_prompts: _Optional[int] = ..., num_asked_tokens: _Optional[int] = ..., num_cached_tokens: _Optional[int] = ..., num_evicted: _Optional[int] = ..., tiers: _Optional[_Iterable[_Union[KvTierStats, _Mapping]]] = ..., tenants: _Optional[_Iterable[_Union[TenantCacheStats, _Mapping]]] = ..., num_unpinned: _Optional[int] = ...) -> None: ...
