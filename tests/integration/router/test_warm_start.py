"""A router that starts takes its index from images in Redis and hears only what came later; else it asks for all."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
import redis

from tandem.core.clock import MonotonicClock
from tandem.core.ids import Epoch, WorkerId
from tandem.core.kv_events import Cleared, Removed, Tier
from tandem.core.types import WorkerInfo
from tandem.prefix_cache.event_log import KvEventLog
from tandem.prefix_cache.image import ImageHead, ImageRefusal, ImageSubject
from tandem.prefix_cache.index import HeldNames
from tandem.prefix_cache.remote.breaker import BreakerPolicy
from tandem.prefix_cache.remote.gate import GatePolicy, Miss, RedisGate
from tandem.prefix_cache.remote.images import RemoteImages
from tandem.router.actions import WorkerKey
from tandem.router.cache.config import CacheImageSection, CacheSection
from tandem.router.cache.follower import CacheFollower
from tandem.router.cache.images import IndexImages
from tandem.router.cache.names import PromptNamer
from tandem.router.cache.view import CacheView
from tests.fakes.redis_server import RedisServer, redis_server
from tests.fakes.router_cluster import until
from tests.integration.router.test_cache_following import CacheOnly, held, serving
from tests.unit.router.cached import SECRET, make_program, stored

POLICY = GatePolicy(timeout_s=0.25, breaker=BreakerPolicy(max_failures=3, open_s=0.3))  # patient with a busy machine
IMAGE = CacheImageSection(interval_s=10.0, ttl_s=60.0, part_blocks=64, max_wait_s=5.0)


@pytest.fixture(scope="module")
def shared() -> Iterator[RedisServer]:
    with redis_server("valkey") as running:
        yield running


@pytest.fixture
def server(shared: RedisServer) -> RedisServer:
    shared.admin().flushall()
    return shared


@dataclass
class FollowingRouter:
    """The part of a router that follows caches."""

    view: CacheView
    images: IndexImages
    remote: RemoteImages
    follower: CacheFollower

    async def write(self) -> int:
        """Write images now; return how many this router has written in all."""
        await self.images.writer.step()
        return self.images.counts.num_written

    def snapshots(self, info: WorkerInfo) -> int:
        state = self.view.follow_state(key_of(info), MonotonicClock().now_s())
        return 0 if state is None else state.num_snapshots


@asynccontextmanager
async def router(
    url: str,
    infos: list[WorkerInfo],
    *,
    secret: bytes = SECRET,
    image: CacheImageSection = IMAGE,
    max_blocks: int = 2000,
) -> AsyncIterator[FollowingRouter]:
    """A life of a router; what it knew is gone when it ends."""
    section = CacheSection(image=image, max_index_blocks=max_blocks)
    view = CacheView(PromptNamer(make_program()), section)
    gate = RedisGate(url, policy=POLICY, clock=MonotonicClock())
    remote = RemoteImages(gate, secret=secret, namespace="t", ttl_s=image.ttl_s)
    known = {key_of(info): info for info in infos}
    images = IndexImages(remote, view, section, info_of=known.get, clock=MonotonicClock())
    follower = CacheFollower(view, clock=MonotonicClock(), tls=None, insecure=False, warm=images.loader.warm)
    follower.change(joined=infos, left=[])
    try:
        yield FollowingRouter(view, images, remote, follower)
    finally:
        await follower.close()
        await images.writer.close()
        await remote.close()


def key_of(info: WorkerInfo) -> WorkerKey:
    return WorkerKey(worker_id=info.worker_id, epoch=info.epoch)


def contents(view: CacheView) -> dict[tuple[str, Tier], set[bytes]]:
    """All that an index holds, by worker and tier."""
    found: dict[tuple[str, Tier], set[bytes]] = {}
    for piece in view.walk(list(view.followed())):
        for names in piece:
            assert isinstance(names, HeldNames)
            found.setdefault((names.holder.worker_id, names.tier), set()).update(names.keys)
    return found


def names_of_keys(server: RedisServer, pattern: str) -> list[str]:
    """Names in Redis."""
    names: list[bytes] = list(server.admin().scan_iter(pattern))
    return sorted(name.decode() for name in names)


def worker_with(tokens: int, *, capacity: int = 4096) -> CacheOnly:
    """A worker with a cache of three parts' names and both tiers."""
    worker = CacheOnly(KvEventLog(Epoch(5), capacity=capacity))
    worker.log.append(stored(tokens))
    worker.log.append(stored(tokens // 2, tier=Tier.HOST))
    worker.log.append(Removed(keys=stored(tokens // 2).keys[:4], tier=Tier.DEVICE))
    return worker


async def test_a_router_that_starts_again_knows_what_it_knew_and_hears_only_the_rest(server: RedisServer) -> None:
    worker = worker_with(16 * 200)
    async with serving(worker) as info:
        async with router(server.url, [info]) as before:
            await until(lambda: before.snapshots(info) == 1 and len(contents(before.view)) == 2)
            assert await before.write() == 1
            known = contents(before.view)
        assert {len(names) for names in known.values()} == {196, 100}
        worker.log.append(stored(16 * 210, tenant="b"))  # while no router was there
        async with router(server.url, [info]) as after:
            await until(lambda: len(worker.asked) == 2 and len(contents(after.view)[("prefill-0", Tier.DEVICE)]) == 406)
            assert (worker.asked[1].epoch, worker.asked[1].start_sequence) == (5, 4)
            assert after.snapshots(info) == 0
            counts = after.images.counts
            assert (counts.num_read, counts.num_blocks_warmed, counts.num_missed) == (1, 296, 0)
            warmed = contents(after.view)
            warmed[("prefill-0", Tier.DEVICE)] -= set(stored(16 * 210, tenant="b").keys)
            assert warmed == known
            assert held(after.view, info, 16 * 200) > 0, "it counts as soon as the worker has spoken"
    assert all(server.admin().pttl(name) > 0 for name in server.admin().keys("*"))


async def test_the_image_is_made_while_the_worker_goes_on(server: RedisServer) -> None:
    """What changes during the walk is in the later events, however much of it is in the image."""
    worker = worker_with(16 * 1500)
    async with serving(worker) as info:
        async with router(server.url, [info]) as before:
            await until(lambda: before.snapshots(info) == 1 and len(contents(before.view)) == 2)
            writing = asyncio.create_task(before.write())
            for number in range(100):
                worker.log.append(stored(16 * 3, tenant=f"t{number}"))
                worker.log.append(Removed(keys=stored(16 * 1500).keys[-10 * number - 10 :], tier=Tier.DEVICE))
                await asyncio.sleep(0.001)
            assert await writing == 1
            await until(lambda: before.view.positions()[0].sequence == worker.log.last_sequence)
            known = contents(before.view)
        async with router(server.url, [info]) as after:
            await until(lambda: [p.sequence for p in after.view.positions()] == [worker.log.last_sequence])
            assert after.snapshots(info) == 0
            assert contents(after.view) == known


async def test_a_ring_that_is_too_short_means_a_snapshot(server: RedisServer) -> None:
    worker = worker_with(16 * 100, capacity=8)
    async with serving(worker) as info:
        async with router(server.url, [info]) as before:
            await until(lambda: before.snapshots(info) == 1)
            assert await before.write() == 1
        for number in range(9):
            worker.log.append(stored(16, tenant=f"t{number}"))
        worker.log.append(Removed(keys=stored(16 * 100).keys[50:], tier=Tier.DEVICE))
        async with router(server.url, [info]) as after:
            await until(lambda: after.snapshots(info) == 1)
            assert after.images.counts.num_read == 1
            assert (worker.asked[1].epoch, worker.asked[1].start_sequence) == (5, 4)
            assert len(contents(after.view)[("prefill-0", Tier.DEVICE)]) == 46 + 9, "nothing of the image is left"


async def test_an_image_of_another_life_is_refused(server: RedisServer) -> None:
    old, new = worker_with(16 * 100), CacheOnly(KvEventLog(Epoch(6)))
    new.log.append(stored(32))
    async with serving(old) as info, router(server.url, [info]) as before:
        await until(lambda: before.snapshots(info) == 1)
        assert await before.write() == 1
    async with serving(new) as info, router(server.url, [info]) as after:
        await until(lambda: after.snapshots(info) == 1)
        assert after.images.counts.refused == {ImageRefusal.OTHER_LIFE: 1}
        assert len(contents(after.view)[("prefill-0", Tier.DEVICE)]) == 2
        assert new.asked[0].epoch is None
        await after.write()
    async with serving(new) as info, router(server.url, [info]) as third:
        await until(lambda: third.images.counts.num_read == 1)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("bit in the head", ImageRefusal.FORGED),
        ("bit in a part", ImageRefusal.FORGED),
        ("parts exchanged", ImageRefusal.OTHER_KEY),
        ("part missing", ImageRefusal.TORN),
        ("part cut", ImageRefusal.MALFORMED),
        ("part too long", ImageRefusal.MALFORMED),
        ("other secret", ImageRefusal.FORGED),
        ("other layout", ImageRefusal.OTHER_LAYOUT),
        ("other version", ImageRefusal.OTHER_VERSION),
        ("too large", ImageRefusal.TOO_LARGE),
    ],
)
async def test_what_is_not_a_whole_image_of_ours_is_refused_and_costs_a_snapshot(
    server: RedisServer, damage: str, reason: ImageRefusal
) -> None:
    worker = worker_with(16 * 400)
    async with serving(worker) as info:
        async with router(server.url, [info]) as before:
            await until(lambda: before.snapshots(info) == 1 and len(contents(before.view)) == 2)
            assert await before.write() == 1
            known = contents(before.view)
        _damage(server.admin(), damage)
        seen = replace(info, layout_fingerprint="other") if damage == "other layout" else info
        secret = b"o" * 32 if damage == "other secret" else SECRET
        image = IMAGE
        max_blocks = 1024 if damage == "too large" else 2000
        if damage == "too large":
            server.admin().flushall()
            async with serving(worker_with(16 * 2500)) as large, router(server.url, [large], max_blocks=4000) as writer:
                await until(lambda: writer.snapshots(large) == 1 and len(contents(writer.view)) == 2)
                assert await writer.write() == 1
        async with router(server.url, [seen], secret=secret, image=image, max_blocks=max_blocks) as after:
            await until(lambda: after.snapshots(seen) == 1 and contents(after.view) == known)
            assert after.images.counts.refused == {reason: 1}
            assert after.images.counts.num_read == 0


def _damage(admin: "redis.Redis", damage: str) -> None:
    parts = sorted(admin.keys("t:index:part:*"))
    assert len(parts) > 4
    one, two = admin.get(parts[0]), admin.get(parts[1])
    head = admin.get("t:index:head:prefill-0")
    assert isinstance(one, bytes)
    assert isinstance(two, bytes)
    assert isinstance(head, bytes)
    if damage == "bit in the head":
        admin.set("t:index:head:prefill-0", head[:90] + bytes([head[90] ^ 1]) + head[91:])
    elif damage == "bit in a part":
        admin.set(parts[0], one[:90] + bytes([one[90] ^ 1]) + one[91:])
    elif damage == "parts exchanged":
        parts = [name for name in parts if len(admin.get(name) or b"") == 64 * 32 + 109]
        one, two = admin.get(parts[0]), admin.get(parts[1])
        admin.set(parts[0], two or b"")
        admin.set(parts[1], one or b"")
    elif damage == "part missing":
        admin.delete(parts[-1])
    elif damage == "part cut":
        admin.set(parts[0], one[:-1])
    elif damage == "part too long":
        admin.set(parts[0], one + bytes(1 << 20))
    elif damage == "other version":
        admin.set("t:index:head:prefill-0", head[:4] + b"\x02" + head[5:])


async def test_one_of_several_routers_writes_and_another_takes_over(server: RedisServer) -> None:
    worker = worker_with(16 * 100)
    async with serving(worker) as info, router(server.url, [info]) as two:
        async with router(server.url, [info]) as one:
            await until(lambda: one.snapshots(info) == two.snapshots(info) == 1)
            assert (await one.write(), await two.write()) == (1, 0)
            assert (await one.write(), await two.write()) == (1, 0), "nothing has changed"
            before = set(server.admin().keys("t:index:part:*"))
        worker.log.append(stored(16 * 90, tenant="b"))
        await until(lambda: two.view.positions()[0].sequence == 4)
        assert await two.write() == 1
        after = set(server.admin().keys("t:index:part:*"))
        assert after
        assert not before & after, "the predecessor's image was replaced and removed"


async def test_an_image_is_renewed_and_written_again_after_a_flush(server: RedisServer) -> None:
    worker = worker_with(16 * 100)
    async with serving(worker) as info, router(server.url, [info]) as running:
        await until(lambda: running.snapshots(info) == 1)
        assert await running.write() == 1
        names = server.admin().keys("t:index:*")
        assert len(names) > 3
        for name in names:
            server.admin().pexpire(name, 9000)
        assert await running.write() == 1
        assert all(server.admin().pttl(name) > 9500 for name in names)
        server.admin().flushall()
        assert await running.write() == 2
        assert len(server.admin().keys("t:index:*")) == len(names)


async def test_what_a_worker_forgot_is_not_in_its_next_image(server: RedisServer) -> None:
    worker = worker_with(16 * 100)
    async with serving(worker) as info:
        async with router(server.url, [info]) as before:
            await until(lambda: before.snapshots(info) == 1)
            await before.write()
            worker.log.append(Cleared())
            await until(lambda: before.view.positions()[0].sequence == 4)
            assert await before.write() == 2
        assert server.admin().keys("t:index:part:*") == []
        async with router(server.url, [info]) as after:
            await until(lambda: after.images.counts.num_read == 1 and bool(after.view.positions()))
            assert contents(after.view) == {}
            assert after.snapshots(info) == 0


async def test_the_memory_bound_holds_and_what_fits_is_kept(server: RedisServer) -> None:
    small = IMAGE.model_copy(update={"memory_bytes": 8000})
    worker, other = worker_with(16 * 400), worker_with(16 * 100)
    async with serving(worker) as info, serving(other) as there:
        second = replace(there, worker_id=WorkerId("prefill-1"))
        async with router(server.url, [info, second], image=small) as running:
            await until(lambda: running.snapshots(info) == running.snapshots(second) == 1)
            await until(lambda: len(contents(running.view)) == 4)
            for _ in range(3):
                assert await running.write() == 1
                admin = server.admin()
                assert sum(admin.strlen(name) for name in admin.keys("t:index:part:*")) <= 8000
            assert running.images.counts.num_failed == 3
            assert names_of_keys(server, "t:index:head:*") == ["t:index:head:prefill-1"]


async def test_a_worker_found_dead_while_its_image_is_loaded_gets_none(server: RedisServer) -> None:
    worker = worker_with(16 * 1500)
    async with serving(worker) as info:
        async with router(server.url, [info]) as before:
            await until(lambda: before.snapshots(info) == 1 and len(contents(before.view)) == 2)
            await before.write()
        async with router(server.url, [info]) as after:
            await until(lambda: bool(contents(after.view)))  # the first part is in
            after.follower.forget(key_of(info))
            await until(lambda: after.snapshots(info) == 1)
            assert after.images.counts.num_read == 0


async def test_a_head_that_may_or_may_not_be_there_is_written_again(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write took effect, and its answer came too late: the image must not stay behind without its parts."""
    worker = worker_with(16 * 100)
    async with serving(worker) as info:
        async with router(server.url, [info]) as before:
            await until(lambda: before.snapshots(info) == 1 and len(contents(before.view)) == 2)
            assert await before.write() == 1
            worker.log.append(stored(16 * 90, tenant="b"))
            await until(lambda: before.view.positions()[0].sequence == 4)
            write_head = before.remote.write_head

            async def late(subject: ImageSubject, head: ImageHead) -> Miss:
                await write_head(subject, head)
                return Miss.LATE

            monkeypatch.setattr(before.remote, "write_head", late)
            assert await before.write() == 1
            monkeypatch.undo()
            assert await before.write() == 2
            known = contents(before.view)
        async with router(server.url, [info]) as after:
            await until(lambda: after.images.counts.num_read == 1 and bool(after.view.positions()))
            assert contents(after.view) == known
            assert after.snapshots(info) == 0
    parts = names_of_keys(server, "t:index:part:*")
    assert len({name.split(":")[-2] for name in parts}) == 1, "nothing is left of the others"


async def test_what_a_router_gave_up_it_removes_also_when_another_writes(server: RedisServer) -> None:
    worker = worker_with(16 * 400)
    async with serving(worker) as info, router(server.url, [info]) as one, router(server.url, [info]) as two:
        await until(lambda: one.snapshots(info) == two.snapshots(info) == 1)
        shelf = one.images.writer._shelf
        draft = one.images.writer._draft(one.view.positions()[0])
        assert draft is not None
        assert await shelf.add_part(draft, stored(16 * 64))
        shelf.discard(draft)
        assert await two.write() == 1
        parts = set(server.admin().keys("t:index:part:*"))
        assert await one.write() == 0, "another router writes"
        assert len(parts - set(server.admin().keys("t:index:part:*"))) == 1
        assert shelf.num_bytes == 0
