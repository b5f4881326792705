"""Pins take hold when the KV is there; flush and numbers come from the engine thread, or not at all in time."""

import asyncio
import math
import threading
from collections import Counter

import pytest

from tandem.core.blocks import AttemptKey, BlockRef
from tandem.core.cache import TierStats, WorkerFlushed
from tandem.core.clock import MonotonicClock
from tandem.core.errors import Unavailable
from tandem.core.ids import Tenant
from tandem.core.kv_events import BlockKey, Tier, TierCost
from tandem.core.messages import AttemptFailed, AttemptReleased, Granted, HandoverDone, PrefillDone, RequestEvent
from tandem.core.types import PrefixPin
from tandem.engine.engine import Engine
from tandem.rpc.context import CallContext
from tandem.worker_host import cache_service
from tandem.worker_host.cache_service import WorkerCacheServiceHandler
from tandem.worker_host.engine_calls import EngineCalls
from tandem.worker_host.inbox import Inbox
from tandem.worker_host.pins import Pins
from tests.fakes.engine_driver import make_cache, make_engine, make_task, run_local

PROMPT = tuple(range(4, 40))
CALL = CallContext(method="test")


def served(*, num_prompts: int = 1) -> Engine:
    """An engine whose cache holds ``PROMPT`` of the tenant acme."""
    engine = make_engine(cache=make_cache())
    for number in range(num_prompts):
        run_local(engine, [make_task(f"r{number}", prompt=PROMPT, tenant=Tenant("acme"))])
    return engine


def done(name: str = "r0") -> PrefillDone:
    return PrefillDone(
        request_id=make_task(name).request_id, attempt=0, wait_ms=0.0, compute_ms=1.0, num_cached_tokens=0
    )


def test_a_pin_takes_hold_with_the_prefill_and_says_how_much() -> None:
    engine = served()
    pins = Pins(engine.cache)
    task = make_task("r0", prompt=PROMPT, tenant=Tenant("acme"), pin=PrefixPin(num_tokens=20, ttl_s=60.0))
    pins.begun(task)
    granted = Granted(request_id=task.request_id, attempt=0, grant=b"")
    assert pins.amend(granted) is granted
    amended = pins.amend(done())
    assert isinstance(amended, PrefillDone)
    block = engine.pool.block_size
    assert amended.num_pinned_tokens == 20 - 20 % block
    assert engine.cache is not None
    assert engine.cache.stats().num_kept == 20 // block
    handed = HandoverDone(
        request_id=task.request_id, attempt=0, num_bytes=1, transport="t", handover_ms=1.0, exposed_ms=0.0
    )
    assert pins.amend(handed) == handed, "where the KV arrives it is pinned without a word"


def test_of_an_attempt_that_is_over_nothing_is_remembered() -> None:
    pins = Pins(served().cache)
    ends: list[RequestEvent] = [
        AttemptReleased(request_id=make_task("a").request_id, attempt=0),
        AttemptFailed(request_id=make_task("a").request_id, attempt=0, reason="R", message="", retryable=True),
    ]
    for number, end in enumerate(ends):
        pins.begun(make_task("a", prompt=PROMPT, pin=PrefixPin(num_tokens=20, ttl_s=60.0)))
        assert len(pins) == 1, number
        assert pins.amend(end) is end
        assert len(pins) == 0
    pins.begun(make_task("a", prompt=PROMPT, pin=PrefixPin(num_tokens=20, ttl_s=60.0)))
    pins.forget(AttemptKey(request_id=make_task("a").request_id, attempt=0))
    assert len(pins) == 0


def test_without_a_cache_nothing_is_pinned() -> None:
    pins = Pins(None)
    pins.begun(make_task("r0", pin=PrefixPin(num_tokens=20, ttl_s=60.0)))
    event = done()
    assert pins.amend(event) is event


async def _answering(inbox: Inbox, stop: threading.Event) -> None:
    await asyncio.to_thread(lambda: [inbox.wait_and_run(0.01) for _ in iter(stop.is_set, True)])


class _SlowRedis:
    """Behind the pool: a Redis that hears of a flush when it is asked for the third time, or never."""

    def __init__(self, num_asked: float) -> None:
        self.num_left = num_asked

    def evicted(self, name: BlockKey, tenant: Tenant, ref: BlockRef) -> None:
        """Nothing is kept."""

    def flushed(self, tenant: Tenant | None) -> int:
        """Nothing is there."""
        return 0

    def stats(self, hit_tokens: Counter[Tier]) -> tuple[TierStats, ...]:
        """No numbers."""
        return ()

    def costs(self) -> tuple[TierCost, ...]:
        """Nothing is fetched."""
        return ()

    def is_flush_pending(self) -> bool:
        self.num_left -= 1
        return self.num_left > 0


@pytest.mark.parametrize(("num_asked", "is_pending"), [(3, False), (math.inf, True)])
async def test_a_flush_waits_a_little_for_redis_and_says_if_it_did_not_hear(
    num_asked: float, is_pending: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_service, "_REDIS_S", 0.2)
    engine, inbox, stop = served(num_prompts=1), Inbox(), threading.Event()
    assert engine.cache is not None
    engine.cache.slower = _SlowRedis(num_asked)
    handler = WorkerCacheServiceHandler(engine.cache, EngineCalls(inbox), clock=MonotonicClock())
    thread = asyncio.create_task(_answering(inbox, stop))
    try:
        assert (await handler.flush_cache(None, CALL)).redis_pending is is_pending
    finally:
        stop.set()
        await thread


async def test_numbers_and_flush_are_the_engine_threads() -> None:
    engine, inbox, stop = served(num_prompts=3), Inbox(), threading.Event()
    assert engine.cache is not None
    handler = WorkerCacheServiceHandler(engine.cache, EngineCalls(inbox), clock=MonotonicClock())
    thread = asyncio.create_task(_answering(inbox, stop))
    try:
        stats = await handler.get_cache_stats(CALL)
        assert stats.num_prompts == 3
        assert stats.num_cached_tokens > 0
        assert [(tier.tier, tier.num_hit_tokens) for tier in stats.tiers] == [(Tier.DEVICE, stats.num_cached_tokens)]
        assert [use.tenant for use in stats.tenants] == ["acme"]
        assert await handler.flush_cache(Tenant("rival"), CALL) == WorkerFlushed(num_blocks=0)
        assert await handler.flush_cache(Tenant("acme"), CALL) == WorkerFlushed(num_blocks=stats.num_blocks)
        assert (await handler.get_cache_stats(CALL)).num_blocks == 0
    finally:
        stop.set()
        await thread


async def test_an_engine_that_is_stuck_answers_nobody_and_does_nothing_later() -> None:
    inbox, asked = Inbox(), []
    with pytest.raises(Unavailable, match="did not answer"):
        await EngineCalls(inbox).run(lambda: asked.append(1), timeout_s=0.01)
    inbox.run_waiting()
    assert asked == [], "whoever asked was told that it was not done"


async def test_what_the_question_raises_is_the_askers() -> None:
    inbox = Inbox()

    def ask() -> int:
        raise ValueError("no")

    answer = asyncio.ensure_future(EngineCalls(inbox).run(ask, timeout_s=5.0))
    await asyncio.sleep(0)
    inbox.run_waiting()
    with pytest.raises(ValueError, match="no"):
        await answer
