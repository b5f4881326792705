"""A fake engine with real tiers behind its pool, and a way to run it until held sequences have had their blocks."""

import hashlib
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from tandem.core.clock import MonotonicClock
from tandem.core.types import GenerationTask
from tandem.engine.engine import Engine
from tandem.engine.kv.block_cache import CacheSetup
from tandem.engine.promotions import PromotionLimits
from tandem.prefix_cache.tiers.block_tiers import BlockTiers
from tests.fakes.engine_driver import Collected, assert_idle, make_engine

LAYOUT = hashlib.sha256(b"layout of the fake").hexdigest()
SECONDS_PER_TOKEN = 0.05  # what the model says: fetching wins unless it takes long


@contextmanager
def tiered_engine(
    cache: CacheSetup,
    *,
    num_blocks: int = 16,
    redis_url: str | None = None,
    seconds_per_token: float = SECONDS_PER_TOKEN,
    max_demoted_blocks: int = 64,
    max_hold_s: float = 5.0,
) -> Iterator[tuple[Engine, BlockTiers]]:
    """Yield an engine and its tiers; the tiers' thread must end at the end."""
    engine = make_engine(num_blocks, cache=cache)
    if engine.cache is None:
        raise AssertionError("no cache")
    tiers = BlockTiers(
        cache.settings,
        secret=cache.secret,
        layout_fingerprint=LAYOUT,
        redis_url=redis_url,
        events=engine.cache.events,
        clock=MonotonicClock(),
    )
    limits = PromotionLimits(max_demoted_blocks=max_demoted_blocks, max_hold_s=max_hold_s)
    engine.promotions.attach(tiers, limits)
    engine.promotions.prefill_s = lambda num_new, num_cached: seconds_per_token * num_new
    tiers.start()
    try:
        yield engine, tiers
    finally:
        if not tiers.close():
            raise AssertionError("the tiers' thread did not end")


def run_held(engine: Engine, tasks: Iterable[GenerationTask], *, timeout_s: float = 20.0) -> Collected:
    """Run tasks to their end, also those that wait for blocks; check the books after every step."""
    for task in tasks:
        engine.start_local(task)
    out = Collected()
    ends_s = time.monotonic() + timeout_s
    while engine.next_work_s() is not None:
        if time.monotonic() > ends_s:
            raise AssertionError(f"still busy: {engine.load()}")
        if engine.has_work():
            out.add(engine.step())
            engine.check_integrity()
        else:
            time.sleep(0.001)
    assert_idle(engine)
    return out


def settle(tiers: BlockTiers, timeout_s: float = 5.0) -> None:
    """Wait until everything that left the pool lies where it is to lie."""
    ends_s = time.monotonic() + timeout_s
    while tiers.num_pending:
        if time.monotonic() > ends_s:
            raise AssertionError("blocks are still on their way")
        time.sleep(0.001)
