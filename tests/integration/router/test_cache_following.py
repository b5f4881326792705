"""A router follows real streams of cache events: breaks, gaps, new lives and workers without a cache."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from tandem.client import AsyncClient
from tandem.core.cache import WorkerCacheStats, WorkerFlushed
from tandem.core.clock import MonotonicClock
from tandem.core.ids import Epoch, Tenant
from tandem.core.kv_events import KvUpdate, WatchFrom
from tandem.core.types import Role, WorkerInfo
from tandem.prefix_cache.event_log import KvEventLog
from tandem.router.actions import WorkerKey
from tandem.router.cache.follower import CacheFollower
from tandem.router.cache.view import CacheView
from tandem.router.config import RouterConfig
from tandem.rpc.channels import INTERNAL_LIMITS
from tandem.rpc.context import CallContext
from tandem.rpc.server import RpcServer
from tandem.rpc.services.cache import worker_cache_service
from tandem.worker_host.kv_watch import KvWatches
from tests.fakes.fake_worker import FakeWorker
from tests.fakes.router_cluster import cluster, until
from tests.unit.router.builders import make_info, make_view
from tests.unit.router.cached import make_cache_view, make_program, names_of, stored


@dataclass
class CacheOnly:
    """A worker that has nothing but a cache; ``skip_next`` events are lost on the way."""

    log: KvEventLog
    skip_next: int = 0
    asked: list[WatchFrom] = field(default_factory=list)

    async def watch_kv_events(self, start: WatchFrom, call: CallContext) -> AsyncIterator[KvUpdate]:
        """Follow the log, and lose what is to be lost."""
        self.asked.append(start)
        async for update in KvWatches(self.log, clock=MonotonicClock(), beat_s=0.05).follow(start):
            if update.events and self.skip_next:
                self.skip_next -= 1
                continue
            yield update

    async def flush_cache(self, tenant: Tenant | None, call: CallContext) -> WorkerFlushed:
        """Nothing."""
        return WorkerFlushed(num_blocks=0)

    async def get_cache_stats(self, call: CallContext) -> WorkerCacheStats:
        """Nothing."""
        return WorkerCacheStats()


@asynccontextmanager
async def serving(worker: CacheOnly, *, port: int = 0) -> AsyncIterator[WorkerInfo]:
    server = RpcServer(address=f"127.0.0.1:{port}", limits=INTERNAL_LIMITS)
    server.add(worker_cache_service(worker))
    address = await server.start()
    try:
        yield replace(make_info("prefill-0", Role.PREFILL, epoch=worker.log.epoch), address=address)
    finally:
        await server.stop(grace_s=0.0)


@asynccontextmanager
async def following(view: CacheView, info: WorkerInfo) -> AsyncIterator[CacheFollower]:
    follower = CacheFollower(view, clock=MonotonicClock(), tls=None, insecure=False)
    follower.change(joined=[info], left=[])
    try:
        yield follower
    finally:
        await follower.close()


def held(view: CacheView, info: WorkerInfo, tokens: int = 200) -> int:
    """Tokens of the common prompt that the router believes the worker holds."""
    worker = WorkerKey(worker_id=info.worker_id, epoch=info.epoch)
    place = replace(make_view("prefill-0", Role.PREFILL), key=worker)
    found = view.cached(names_of(tokens), [place], MonotonicClock().now_s())
    return found[worker].num_tokens if worker in found else 0


async def test_what_was_held_before_and_what_comes_later_is_known() -> None:
    view, worker = make_cache_view(), CacheOnly(KvEventLog(Epoch(5)))
    worker.log.append(stored(32))
    async with serving(worker) as info, following(view, info) as follower:
        await until(lambda: held(view, info) == 32)
        worker.log.append(stored(96))
        await until(lambda: held(view, info) == 96)
        assert follower.is_watching(WorkerKey(worker_id=info.worker_id, epoch=info.epoch))


async def test_a_lost_event_is_noticed_and_mended_by_a_snapshot() -> None:
    view, worker = make_cache_view(), CacheOnly(KvEventLog(Epoch(5)))
    worker.log.append(stored(32))
    async with serving(worker) as info, following(view, info):
        await until(lambda: held(view, info) == 32)
        worker.skip_next = 1
        worker.log.append(stored(64))
        await until(lambda: worker.skip_next == 0)
        worker.log.append(stored(96))
        await until(lambda: held(view, info) == 96)
        state = view.follow_state(WorkerKey(worker_id=info.worker_id, epoch=info.epoch), MonotonicClock().now_s())
        assert state is not None
        assert (state.num_gaps, state.num_snapshots, state.num_behind) == (1, 2, 0)
        assert worker.asked[-1].epoch is None


async def test_a_stream_that_breaks_goes_on_from_where_it_broke() -> None:
    view, worker = make_cache_view(), CacheOnly(KvEventLog(Epoch(5)))
    worker.log.append(stored(32))
    async with serving(worker) as info:
        port = int(info.address.rsplit(":", 1)[1])
        async with following(view, info):
            await until(lambda: held(view, info) == 32)
    async with following(view, info):
        await asyncio.sleep(0.05)
        worker.log.append(stored(64))
        async with serving(worker, port=port):
            await until(lambda: held(view, info) == 64)
    assert [(start.epoch, start.start_sequence) for start in worker.asked] == [(None, 1), (5, 2)]
    state = view.follow_state(WorkerKey(worker_id=info.worker_id, epoch=info.epoch), MonotonicClock().now_s())
    assert state is not None
    assert state.num_snapshots == 1, "what was known was not asked for again"


async def test_another_life_at_the_address_is_not_taken_for_the_old_one() -> None:
    view, old, new = make_cache_view(), CacheOnly(KvEventLog(Epoch(5))), CacheOnly(KvEventLog(Epoch(6)))
    old.log.append(stored(32))
    new.log.append(stored(96))
    async with serving(old) as info, following(view, info) as follower:
        await until(lambda: held(view, info) == 32)
        async with serving(new) as reborn:
            follower.change(joined=[reborn], left=[WorkerKey(worker_id=info.worker_id, epoch=info.epoch)])
            await until(lambda: held(view, reborn) == 96)
            assert held(view, info) == 0
        pretender = replace(info, address=reborn.address, epoch=Epoch(7))
    async with serving(new) as there, following(view, replace(pretender, address=there.address)):
        await until(lambda: len(new.asked) >= 3)
        assert held(view, pretender) == 0


async def test_a_worker_without_a_cache_is_served_as_ever(tmp_path: Path) -> None:
    """Also the numbers and a flush: what has no cache has nothing to forget."""
    workers = [FakeWorker("prefill-0", Role.PREFILL), FakeWorker("decode-0", Role.DECODE)]
    async with cluster(tmp_path, workers, RouterConfig(port=0), cache=make_program()) as running:
        async with AsyncClient(running.router.address) as client:
            assert (await client.generate("hello", max_tokens=3)).usage.cached_tokens == 0
            flushed = await client.flush_prefix_cache()
            assert (flushed.num_blocks, flushed.num_workers, flushed.num_missed) == (0, 2, 0)
        async with AsyncClient(running.router.internal_address) as operator:
            status = await operator.cache_status()
            assert status.enabled
            assert [(w.worker_id, w.watching, w.stats) for w in status.workers] == [
                ("decode-0", False, None),
                ("prefill-0", False, None),
            ]
            assert (await operator.status()).cache_hit_rates == {}
            serving_status = (await operator.status()).serving
            assert sum(serving_status.num_placed.values()) == 1
            assert serving_status.cause
            await workers[0].stop()
            missed = await operator.flush_cache_of(None)
            assert (missed.num_workers, missed.num_missed) == (1, 1), "a flush that is not whole says so"
