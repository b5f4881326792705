"""Engines whose cached blocks go to Redis: taken back here or elsewhere, and never wrong, whatever Redis does."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count

import pytest

from tandem.core.ids import Epoch, Tenant
from tandem.core.kv_events import Tier
from tandem.core.messages import PrefillDone
from tandem.core.types import GenerationTask, StopParams
from tandem.engine.engine import Engine
from tandem.engine.kv.block_cache import CacheSetup
from tandem.prefix_cache.tiers import scopes
from tandem.prefix_cache.tiers.block_tiers import BlockTiers
from tandem.prefix_cache.tiers.remote_shelf import RemoteShelf
from tests.fakes.engine_driver import make_cache, make_task
from tests.fakes.fake_runner import reference_tokens
from tests.fakes.redis_server import RedisServer, binaries, redis_server
from tests.fakes.tiers import run_held, settle, tiered_engine

PROMPT = tuple(range(10, 31))  # five full blocks of 4 tokens and one token
OTHER = tuple(range(100, 153))  # thirteen blocks: pushes the first out of a pool of 16
NAMES = count()


@pytest.fixture(params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    if request.param not in binaries():
        pytest.skip(f"no {request.param}-server is installed")
    with redis_server(request.param) as running:
        yield running


def setup(epoch: int = 7, **redis: object) -> CacheSetup:
    """Redis right behind the pool: no host tier."""
    settings = {"enabled": True, "timeout_s": 0.25, "breaker_failures": 3, "breaker_open_s": 0.3, **redis}
    return replace(make_cache(host={"enabled": False}, redis=settings), epoch=Epoch(epoch))


def task(prompt: tuple[int, ...], tenant: str = "acme") -> GenerationTask:
    stop = StopParams(max_tokens=3, ignore_eos=True)
    return make_task(f"t{next(NAMES)}", prompt=prompt, stop=stop, tenant=Tenant(tenant))


def ask(engine: Engine, prompt: tuple[int, ...], tenant: str = "acme") -> int:
    """Run one prompt, compare it with the reference, and return the tokens that were not computed."""
    one = task(prompt, tenant)
    out = run_held(engine, [one])
    assert out.tokens[one.request_id, 0] == reference_tokens(one, 0)
    return next(e.num_cached_tokens for e in out.events if isinstance(e, PrefillDone))


def shelf(tiers: BlockTiers) -> RemoteShelf:
    assert tiers.remote is not None
    return tiers.remote


def fill(engine: Engine, tiers: BlockTiers) -> None:
    """Compute PROMPT, and push it out of the pool."""
    ask(engine, PROMPT)
    ask(engine, OTHER)
    settle(tiers)


def push_out(engine: Engine, tiers: BlockTiers) -> None:
    ask(engine, tuple(range(200, 253)))
    settle(tiers)


def test_what_one_worker_gave_up_another_takes(server: RedisServer) -> None:
    with tiered_engine(setup(1), redis_url=server.url) as (first, tiers):
        fill(first, tiers)
        assert first.cache is not None
        assert first.cache.events.num_held(Tier.REMOTE) == shelf(tiers).num_blocks > 0
        push_out(first, tiers)
        assert ask(first, PROMPT) == 20
        with tiered_engine(setup(2), redis_url=server.url) as (third, _):
            assert ask(third, PROMPT) == 20
            assert third.cache is not None
            tier = third.cache.stats().tiers[-1]
            assert (tier.tier, tier.num_hit_tokens, tier.num_promoted) == (Tier.REMOTE, 20, 5)
    admin = server.admin()
    names = list(admin.scan_iter("*"))
    assert names
    assert all(0 < admin.pttl(name) <= 2 * 3_600_000 for name in names), "everything ends by itself"
    assert not any(b"acme" in name for name in names), "no tenant's name stands in Redis"


def test_another_tenant_and_another_secret_find_nothing(server: RedisServer) -> None:
    with tiered_engine(setup(1), redis_url=server.url) as (first, tiers):
        fill(first, tiers)
        push_out(first, tiers)
        for cache, tenant in (
            (setup(2), "bold"),
            (replace(setup(3), secret=b"another secret of 32 bytes......"), "acme"),
        ):
            with tiered_engine(cache, redis_url=server.url) as (second, _):
                assert ask(second, PROMPT, tenant) == 0


def test_what_leaves_host_memory_goes_to_redis(server: RedisServer) -> None:
    cache = setup(1)
    host = {"enabled": True, "memory_bytes": 400}  # two blocks
    cache = replace(cache, settings=cache.settings.model_validate(cache.settings.model_dump() | {"host": host}))
    with tiered_engine(cache, redis_url=server.url) as (engine, tiers):
        fill(engine, tiers)
        push_out(engine, tiers)
        assert tiers.host is not None
        assert tiers.host.stats().num_bytes <= 400
        assert shelf(tiers).num_stored > 0
        assert ask(engine, PROMPT) == 20
        assert engine.cache is not None
        hits = {tier.tier: tier.num_hit_tokens for tier in engine.cache.stats().tiers}
        assert sum(hits.values()) == engine.cache.stats().num_cached_tokens
        assert hits[Tier.REMOTE] > 0


def test_what_a_worker_keeps_in_redis_is_bounded(server: RedisServer) -> None:
    with tiered_engine(setup(memory_bytes=1000), redis_url=server.url) as (engine, tiers):
        for start in range(0, 280, 40):
            ask(engine, tuple(range(start + 3, start + 43)))
            settle(tiers)
            values = list(server.admin().scan_iter("tandem:kv:*"))
            assert sum(server.admin().strlen(name) for name in values) <= 1000
            assert len(values) == shelf(tiers).num_blocks
        assert engine.cache is not None
        assert engine.cache.events.num_held(Tier.REMOTE) == shelf(tiers).num_blocks > 0


def test_a_flood_of_one_tenant_leaves_another_its_blocks_in_redis(server: RedisServer) -> None:
    with tiered_engine(setup(memory_bytes=2000), redis_url=server.url) as (engine, tiers):
        fill(engine, tiers)
        push_out(engine, tiers)
        for start in range(10):
            ask(engine, tuple(range(start + 150, start + 190)), "flood")
            settle(tiers)
        assert shelf(tiers).num_bytes <= 2000
        own, flood = (len(shelf(tiers)._stored.keys_of(Tenant(tenant))) for tenant in ("acme", "flood"))
        assert own > 4
        assert abs(own - flood) <= 2, "each has half of the room, but for the last one in"


@pytest.mark.parametrize("whose", [Tenant("acme"), None])
def test_a_flush_reaches_what_other_and_lost_workers_stored(
    server: RedisServer, whose: Tenant | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tiered_engine(setup(1), redis_url=server.url) as (lost, tiers):
        fill(lost, tiers)
        push_out(lost, tiers)
    monkeypatch.setattr(scopes, "_QUIET_S", 0.0)
    with tiered_engine(setup(2), redis_url=server.url) as (engine, tiers):
        assert engine.cache is not None
        engine.cache.flush(whose)
        settle(tiers)
        assert ask(engine, PROMPT) == 0, "its blocks are there, and nobody finds them"
        fill(engine, tiers)
        push_out(engine, tiers)
        assert ask(engine, PROMPT) == 20, "what came after the flush is found"


def test_after_a_flush_redis_is_left_alone_until_all_workers_had_theirs(server: RedisServer) -> None:
    with tiered_engine(setup(1), redis_url=server.url) as (engine, tiers):
        assert engine.cache is not None
        engine.cache.flush(Tenant("acme"))
        settle(tiers)
        with tiered_engine(setup(2), redis_url=server.url) as (late, behind):  # was not flushed yet
            fill(late, behind)
            push_out(late, behind)
        assert ask(engine, PROMPT) == 0
        assert shelf(tiers).misses.total() == 0, "no call failed: none was made"


def test_a_flush_that_redis_does_not_hear_is_done_before_it_is_used_again(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scopes, "_QUIET_S", 0.0)
    with tiered_engine(setup(1), redis_url=server.url) as (engine, tiers):
        fill(engine, tiers)
        push_out(engine, tiers)
        assert engine.cache is not None
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            engine.cache.flush(Tenant("acme"))
            until_s = time.monotonic() + 20.0
            while not shelf(tiers).misses and time.monotonic() < until_s:
                time.sleep(0.01)
            assert shelf(tiers).misses, "Redis was told and did not hear"
            assert engine.cache.is_flush_pending
            assert ask(engine, PROMPT) == 0
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        until_s = time.monotonic() + 20.0
        while engine.cache.is_flush_pending and time.monotonic() < until_s:
            time.sleep(0.05)  # nobody asks for anything: the worker repeats it by itself
        assert not engine.cache.is_flush_pending
        with tiered_engine(setup(2), redis_url=server.url) as (other, _):
            assert ask(other, PROMPT) == 0, "also a worker that was never told finds nothing now"


def down(server: RedisServer) -> None:
    server.process.kill()
    server.process.wait(timeout=10.0)


def hung(server: RedisServer) -> None:
    os.kill(server.process.pid, signal.SIGSTOP)


def flushed(server: RedisServer) -> None:
    server.admin().flushall()


def full(server: RedisServer) -> None:
    server.admin().config_set("maxmemory-policy", "noeviction")
    server.admin().config_set("maxmemory", "1kb")


def read_only(server: RedisServer) -> None:
    server.admin().replicaof("127.0.0.1", "1")


def locked(server: RedisServer) -> None:
    admin = server.admin()
    admin.config_set("requirepass", "right")
    server.admin("right").client_kill_filter(skipme=True)


def slow(server: RedisServer) -> None:
    server.admin().client_pause(700)  # every answer takes that long, and then they all come


def forged(server: RedisServer) -> None:
    admin, draw = server.admin(), random.Random(3)
    for name in admin.scan_iter("tandem:kv:*"):  # between head and tag: the bytes of the KV
        value = admin.get(name)
        assert isinstance(value, bytes)
        changed = bytearray(value)
        changed[draw.randrange(77, len(changed) - 32)] ^= draw.randrange(1, 256)
        admin.set(name, bytes(changed), px=60_000)


def swapped(server: RedisServer) -> None:
    admin = server.admin()
    names = list(admin.scan_iter("tandem:kv:*"))
    values = [admin.get(name) for name in names]
    for name, value in zip(names, values[1:] + values[:1], strict=True):
        assert isinstance(value, bytes)
        admin.set(name, value, px=60_000)


@pytest.mark.parametrize("trouble", [down, hung, slow, flushed, full, read_only, locked, forged, swapped])
def test_trouble_costs_time_and_no_answer(server: RedisServer, trouble: Callable[[RedisServer], None]) -> None:
    if server.flavour != "valkey" and trouble not in (full, read_only, locked):
        pytest.skip("the same for every server")
    with tiered_engine(setup(), redis_url=server.url, max_hold_s=2.0) as (engine, tiers):
        fill(engine, tiers)
        push_out(engine, tiers)
        assert shelf(tiers).num_blocks > 0
        trouble(server)
        try:
            took = []
            for _ in range(4):
                for prompt in (PROMPT, OTHER, tuple(range(200, 253))):
                    began_s = time.monotonic()
                    ask(engine, prompt)  # compares the tokens
                    took.append(time.monotonic() - began_s)
            assert max(took) < 3.0
            assert engine.promotions.num_late == 0, "nobody waits longer than a call may take"
        finally:
            if trouble is hung:
                os.kill(server.process.pid, signal.SIGCONT)
        settle(tiers)
        if trouble in (forged, swapped):
            assert shelf(tiers).num_rejected > 0
        if trouble in (down, hung, locked):
            assert shelf(tiers).misses.total() > 0


def test_a_redis_that_comes_back_is_used_again(server: RedisServer) -> None:
    with tiered_engine(setup(), redis_url=server.url) as (engine, tiers):
        fill(engine, tiers)
        push_out(engine, tiers)
        hung(server)
        for prompt in (PROMPT, OTHER, PROMPT, OTHER):
            ask(engine, prompt)
        os.kill(server.process.pid, signal.SIGCONT)
        before, ends_s = tiers.promoted[Tier.REMOTE], time.monotonic() + 5.0
        while tiers.promoted[Tier.REMOTE] == before:
            assert time.monotonic() < ends_s, "not back in time"
            for prompt in (PROMPT, OTHER, tuple(range(200, 253))):
                ask(engine, prompt)
                settle(tiers)
