"""What passes between an engine thread and the thread of its cache's tiers. State only."""

from dataclasses import dataclass, field

from tandem.core.ids import Tenant
from tandem.core.kv_events import BlockKey, Tier
from tandem.prefix_cache.tiers.host import HostFence


@dataclass(frozen=True, slots=True, kw_only=True)
class Demotion:
    """A block that left the KV pool: its bytes were copied before its place was given away."""

    key: BlockKey
    tenant: Tenant
    payload: bytes
    fence: HostFence | None  # None without a host tier
    flushes: int  # of the tenant or of all, when it was copied


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedBlock:
    """One block that proved itself, and where it came from."""

    payload: memoryview
    tier: Tier


@dataclass(slots=True, kw_only=True, eq=False)
class Fetch:
    """Blocks that are wanted, in the order of a prompt. The tiers' thread fills ``blocks`` and then is through with it.

    ``is_dropped`` is the engine thread's: nobody wants it any more.
    """

    tenant: Tenant
    keys: tuple[BlockKey, ...]
    block_bytes: int
    deadline_s: float
    asks_remote: bool
    num_public: int = 0  # of ``keys``, from the first on, are of a public prefix
    is_dropped: bool = False
    blocks: list[FetchedBlock] = field(default_factory=list)
