"""Where blocks go that leave a worker's KV pool, and from where they come back: host memory, then Redis.

::

    engine thread                    thread of the tiers (an event loop)
    ─ demote(copied bytes) ────────► seal ─► host tier ─ what makes room ─► Redis
    ─ fetch(names, deadline) ──────► host tier, else Redis; open and verify
    ◄─ take_arrivals() ──────────────┘ (and ``on_arrival``)
    ─ flush(tenant) ── host at once; what is on its way stays out; Redis behind it

The engine thread never waits: it hands over copies, at most so many at a time, and takes what has arrived. Nothing that
happens here fails a request: what is late, wrong or away is computed again.
"""

import asyncio
import threading
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Sequence

import structlog

from tandem.core.cache import TierStats
from tandem.core.clock import Clock
from tandem.core.ids import Tenant
from tandem.core.kv_events import BlockKey, Removed, Stored, Tier, TierCost
from tandem.prefix_cache.config import PrefixCacheConfig
from tandem.prefix_cache.event_log import KvEventLog
from tandem.prefix_cache.keys import PUBLIC_OWNER
from tandem.prefix_cache.remote.envelope import BlockEnvelope
from tandem.prefix_cache.tiers.costs import FIRST_COSTS, MeasuredCost
from tandem.prefix_cache.tiers.host import HostBlocks, HostEntry
from tandem.prefix_cache.tiers.jobs import Demotion, Fetch, FetchedBlock
from tandem.prefix_cache.tiers.remote_queue import RemoteQueue
from tandem.prefix_cache.tiers.remote_shelf import RemoteShelf

_log = structlog.get_logger(__name__)
_MAX_PENDING_BYTES = 256 << 20  # copies that wait to be sealed; beyond it blocks are forgotten
_MAX_FETCHES = 64
_MAX_FLUSHES = 4096  # tenants whose flushes are told apart
_CLOSE_S = 5.0
_FLUSH_PAUSE_S = 1.0  # between two tries to tell Redis of a flush


class BlockTiers:
    """The tiers of one worker. Methods are the engine thread's unless they say otherwise."""

    def __init__(
        self,
        settings: PrefixCacheConfig,
        *,
        secret: bytes,
        layout_fingerprint: str,
        redis_url: str | None,
        events: KvEventLog,
        clock: Clock,
    ) -> None:
        """``redis_url``: nothing = no Redis tier. Raises InvalidArgument for a layout that is not a fingerprint."""
        envelope = BlockEnvelope(secret, layout_fingerprint=layout_fingerprint)
        self._envelope = envelope
        self._events = events
        self._clock = clock
        self.host: HostBlocks | None = None
        if settings.host.enabled:
            self.host = HostBlocks(envelope, capacity_bytes=settings.host.memory_bytes, weights=settings.weights())
        self.remote: RemoteShelf | None = None
        if settings.redis.enabled and redis_url is not None:
            self.remote = RemoteShelf(
                settings.redis,
                redis_url,
                envelope,
                secret=secret,
                clock=clock,
                on_stored=lambda keys: self._events.append(Stored(keys=keys, tier=Tier.REMOTE)),
                on_removed=lambda keys: self._events.append(Removed(keys=keys, tier=Tier.REMOTE)),
                weights=settings.weights(),
            )
        self.costs = {
            Tier.HOST: MeasuredCost(FIRST_COSTS[Tier.HOST]),
            Tier.REMOTE: MeasuredCost(FIRST_COSTS[Tier.REMOTE]),
        }
        self.on_arrival: Callable[[], None] = lambda: None  # called by the tiers' thread
        self.promoted: Counter[Tier] = Counter()  # blocks; the engine counts what it took
        self.num_skipped = 0  # blocks that were not kept: too many at a time
        self._told = threading.Lock()  # the host tier and what is told of it change together
        self._lock = threading.Lock()
        self._pending_bytes = 0
        self._num_pending = 0
        self._num_fetches = 0
        self._flushes: Counter[Tenant | None] = Counter()
        self._num_flushing = 0  # flushes on their way to Redis
        self._arrivals: deque[Fetch] = deque()
        self._to_remote = RemoteQueue(settings.weights())
        self._is_storing = False  # one of them may be on its way
        self._remote_wake = asyncio.Event()
        self._stop = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kv-tiers", daemon=True)

    # --- life --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()
        self._ready.wait(_CLOSE_S)

    def close(self) -> bool:
        """End the thread; what lies in host memory goes with it. False: it did not end in time. Any thread."""
        if self._loop is None:
            return True
        self._post(self._stop.set)
        self._thread.join(_CLOSE_S)
        return not self._thread.is_alive()

    # --- what the engine does ----------------------------------------------------------------------------------------

    def wants(self, key: BlockKey, num_bytes: int) -> bool:
        """Whether a block that leaves the pool should be copied: it is not here yet, and there is room for the copy."""
        if self.host is not None and self.host.refresh(key):
            return False
        with self._lock:
            has_room = self._pending_bytes + num_bytes <= _MAX_PENDING_BYTES
        self.num_skipped += not has_room
        return has_room and self._loop is not None

    def demote(self, key: BlockKey, tenant: Tenant, payload: bytes) -> None:
        """Take the copy of a block that leaves the pool."""
        fence = None if self.host is None else self.host.fence(tenant)
        job = Demotion(key=key, tenant=tenant, payload=payload, fence=fence, flushes=self._num_flushes(tenant))
        with self._lock:
            self._pending_bytes += len(payload)
            self._num_pending += 1
        self._post(lambda: self._take(job))

    def num_in_host(self, keys: Sequence[BlockKey]) -> int:
        """Return how many of these blocks, from the first on, lie in host memory."""
        return 0 if self.host is None else self.host.num_held(keys)

    def asks_remote(self) -> bool:
        """Whether Redis may be asked."""
        return self.remote is not None and self.remote.may_read()

    def fetch(self, fetch: Fetch) -> bool:
        """Begin to fetch; it arrives, whole, in part or empty. False: too many are on their way."""
        if self._num_fetches >= _MAX_FETCHES or self._loop is None:
            return False
        self._num_fetches += 1
        self._post(lambda: self._spawn(self._serve(fetch)))
        return True

    @property
    def num_pending(self) -> int:
        """Blocks and fetches on their way. Any thread."""
        with self._lock:
            return self._num_pending + len(self._to_remote) + self._is_storing + len(self._tasks)

    @property
    def has_arrivals(self) -> bool:
        """Whether a fetch has come to its end."""
        return bool(self._arrivals)

    def take_arrivals(self) -> list[Fetch]:
        """Return the fetches that came to their end."""
        arrived = []
        while self._arrivals:
            arrived.append(self._arrivals.popleft())
            self._num_fetches -= 1
        return arrived

    def flush(self, tenant: Tenant | None) -> int:
        """Forget what is here of ``tenant`` (None = of anybody) and on its way; return the blocks in host memory."""
        with self._lock:
            if len(self._flushes) >= _MAX_FLUSHES:
                tenant_or_all, total = None, self._flushes.total()
                self._flushes = Counter({None: total})
            else:
                tenant_or_all = tenant
            self._flushes[tenant_or_all] += 1
        gone: tuple[BlockKey, ...] = ()
        if self.host is not None:
            with self._told:
                gone = self.host.flush(tenant)
                if gone:
                    self._events.append(Removed(keys=gone, tier=Tier.HOST))
        if self.remote is not None:
            remote = self.remote
            with self._lock:
                self._num_flushing += 1
            self._post(lambda: self._spawn(self._flush_remote(remote, tenant)))
        return len(gone)

    @property
    def is_flush_pending(self) -> bool:
        """Whether Redis did not take a flush yet. Any thread."""
        with self._lock:
            if self._num_flushing:
                return True
        return self.remote is not None and self.remote.is_flush_pending

    def stats(self, hit_tokens: Counter[Tier]) -> tuple[TierStats, ...]:
        """Return the numbers of the tiers that there are. Any thread."""
        out = []
        if self.host is not None:
            host = self.host.stats()
            out.append(
                TierStats(
                    tier=Tier.HOST,
                    num_blocks=host.num_blocks,
                    num_hit_tokens=hit_tokens[Tier.HOST],
                    num_bytes=host.num_bytes,
                    num_demoted=host.num_stored,
                    num_promoted=self.promoted[Tier.HOST],
                    num_rejected=host.num_rejected,
                    num_skipped=self.num_skipped,
                )
            )
        if self.remote is not None:
            out.append(
                TierStats(
                    tier=Tier.REMOTE,
                    num_blocks=self.remote.num_blocks,
                    num_hit_tokens=hit_tokens[Tier.REMOTE],
                    num_bytes=self.remote.num_bytes,
                    num_demoted=self.remote.num_stored,
                    num_promoted=self.promoted[Tier.REMOTE],
                    num_rejected=self.remote.num_rejected,
                    num_skipped=self.remote.num_failed,
                )
            )
        return tuple(out)

    def measured_costs(self) -> tuple[TierCost, ...]:
        """Return what fetching from the tiers that there are costs now. Any thread."""
        there = [tier for tier, it in ((Tier.HOST, self.host), (Tier.REMOTE, self.remote)) if it is not None]
        costs = {tier: self.costs[tier].now for tier in there}
        return tuple(TierCost(tier=t, fixed_s=cost.fixed_s, s_per_byte=cost.s_per_byte) for t, cost in costs.items())

    # --- the tiers' thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except Exception:  # noqa: BLE001 - the thread's outermost shell: without it there are no tiers, and all else goes on
            _log.exception("cache_tiers_ended")

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ready.set()
        feeding = asyncio.create_task(self._feed_remote())
        await self._stop.wait()
        for task in (feeding, *self._tasks):
            task.cancel()
        await asyncio.gather(feeding, *self._tasks, return_exceptions=True)
        if self.remote is not None:
            await self.remote.close()

    def _post(self, job: Callable[[], None]) -> None:
        loop = self._loop
        if loop is None:
            return
        try:
            loop.call_soon_threadsafe(job)
        except RuntimeError:  # it ended: nobody is left to keep anything
            return

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _num_flushes(self, tenant: Tenant) -> int:
        with self._lock:
            return self._flushes[tenant] + self._flushes[None]

    def _take(self, job: Demotion) -> None:
        try:
            self._keep(job)
        finally:
            with self._lock:
                self._pending_bytes -= len(job.payload)
                self._num_pending -= 1

    def _keep(self, job: Demotion) -> None:
        if self.host is None or job.fence is None:
            if job.flushes == self._num_flushes(job.tenant):
                value = self._envelope.seal(job.key, job.payload)
                self._pass_on([HostEntry(job.key, job.tenant, value)])
            return
        with self._told:
            gone = self.host.put(job.key, job.tenant, job.payload, job.fence)
            if gone is None:
                return
            self._events.append(Stored(keys=(job.key,), tier=Tier.HOST))
            if gone:
                self._events.append(Removed(keys=tuple(entry.key for entry in gone), tier=Tier.HOST))
        self._pass_on(gone)

    def _pass_on(self, entries: Sequence[HostEntry]) -> None:
        if self.remote is None:
            return
        for entry in entries:
            self.remote.num_failed += not self._to_remote.add(entry, self._num_flushes(entry.tenant))
        self._remote_wake.set()

    async def _feed_remote(self) -> None:
        while self.remote is not None:
            await self._remote_wake.wait()
            self._remote_wake.clear()
            self._is_storing = True
            while (waiting := self._to_remote.pop()) is not None:
                entry, flushes = waiting

                def is_wanted(tenant: Tenant = entry.tenant, flushes: int = flushes) -> bool:
                    return flushes == self._num_flushes(tenant)

                try:
                    if is_wanted():
                        await self.remote.put(entry.key, entry.tenant, entry.value, is_wanted=is_wanted)
                except Exception:  # noqa: BLE001 - the loop's shell: one block is lost, the next may do
                    _log.exception("block_not_stored")
            self._is_storing = False

    async def _flush_remote(self, remote: RemoteShelf, tenant: Tenant | None) -> None:
        try:
            await remote.flush(tenant)
        except Exception:  # noqa: BLE001 - the job's shell: what is not flushed is not read either
            _log.exception("redis_not_flushed")
        finally:
            with self._lock:
                self._num_flushing -= 1
        while remote.is_flush_pending:
            await asyncio.sleep(_FLUSH_PAUSE_S)
            try:
                await remote.settle()
            except Exception:  # noqa: BLE001 - as above; the next try may do
                _log.exception("redis_not_flushed")

    async def _serve(self, fetch: Fetch) -> None:
        try:
            await self._collect(fetch)
        except Exception:  # noqa: BLE001 - the job's shell: whoever waits computes instead
            _log.exception("blocks_not_fetched")
        finally:
            self._arrivals.append(fetch)
            self.on_arrival()

    async def _collect(self, fetch: Fetch) -> None:
        scopes: dict[Tenant, bytes | None] = {}
        spent_s: dict[Tier, float] = {}
        num_bytes: Counter[Tier] = Counter()
        for place, key in enumerate(fetch.keys):
            began_s = self._clock.now_s()
            if fetch.is_dropped or began_s >= fetch.deadline_s:
                break
            payload, tier = self._from_host(key), Tier.HOST
            if payload is None and fetch.asks_remote and self.remote is not None:
                tier = Tier.REMOTE
                owner = PUBLIC_OWNER if place < fetch.num_public else fetch.tenant
                if owner not in scopes:
                    scopes[owner] = await self.remote.scope(owner)
                scope = scopes[owner]
                payload = None if scope is None else await self.remote.get(key, scope, num_bytes=fetch.block_bytes)
            if payload is None:
                break
            fetch.blocks.append(FetchedBlock(payload=payload, tier=tier))
            spent_s[tier] = spent_s.get(tier, 0.0) + self._clock.now_s() - began_s
            num_bytes[tier] += len(payload)
            await asyncio.sleep(0)
        for tier, sum_bytes in num_bytes.items():
            self.costs[tier].observe(num_bytes=sum_bytes, seconds=spent_s[tier])

    def _from_host(self, key: BlockKey) -> memoryview | None:
        if self.host is None or not self.host.refresh(key):
            return None
        payload = self.host.get(key)
        if payload is None:
            with self._told:
                self._events.append(Removed(keys=(key,), tier=Tier.HOST))
        return payload
