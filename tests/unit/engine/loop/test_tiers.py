"""Blocks that leave the pool and come back: the tokens stay those of the reference, whatever the tiers do."""

import math
import random
import struct
import time
from itertools import count

import pytest

from tandem.core.ids import Tenant
from tandem.core.kv_events import Tier
from tandem.core.messages import PrefillDone
from tandem.core.types import GenerationTask, StopParams
from tandem.engine.engine import Engine
from tandem.prefix_cache.tiers.jobs import Fetch
from tests.fakes.engine_driver import Collected, SettableClock, key_of, make_cache, make_engine, make_task
from tests.fakes.fake_runner import reference_tokens
from tests.fakes.tiers import run_held, settle, tiered_engine

BLOCK = 4
PROMPT = tuple(range(10, 31))  # five full blocks and one token
OTHER = tuple(range(100, 153))  # thirteen blocks: pushes the first out of a pool of 16
LONG = StopParams(max_tokens=3, ignore_eos=True)
NAMES = count()


def task(prompt: tuple[int, ...], tenant: str = "acme") -> GenerationTask:
    return make_task(f"t{next(NAMES)}", prompt=prompt, stop=LONG, tenant=Tenant(tenant))


def run(engine: Engine, one: GenerationTask) -> Collected:
    out = run_held(engine, [one])
    assert out.tokens[one.request_id, 0] == reference_tokens(one, 0)
    return out


def cached(out: Collected) -> int:
    return next(e.num_cached_tokens for e in out.events if isinstance(e, PrefillDone))


def hits(engine: Engine) -> dict[Tier, int]:
    assert engine.cache is not None
    return {tier.tier: tier.num_hit_tokens for tier in engine.cache.stats().tiers}


def test_a_prompt_comes_back_from_host_memory_and_nothing_of_it_is_computed_again() -> None:
    with tiered_engine(make_cache()) as (engine, tiers):
        run(engine, task(PROMPT))
        run(engine, task(OTHER))
        settle(tiers)
        assert engine.cache is not None
        assert engine.cache.events.num_held(Tier.HOST) == tiers.host.stats().num_blocks > 0  # type: ignore[union-attr]
        assert cached(run(engine, task(PROMPT))) == 20
        assert hits(engine)[Tier.HOST] == BLOCK * tiers.promoted[Tier.HOST] > 0
        assert sum(hits(engine).values()) == engine.cache.stats().num_cached_tokens
        assert engine.promotions.num_held == engine.promotions.num_late == 0


def test_where_computing_is_faster_nothing_is_fetched() -> None:
    with tiered_engine(make_cache(), seconds_per_token=1e-9) as (engine, tiers):
        for prompt in (PROMPT, OTHER, PROMPT):
            run(engine, task(prompt))
            settle(tiers)
        assert tiers.promoted.total() == 0 < tiers.host.stats().num_blocks  # type: ignore[union-attr]


def test_a_step_copies_out_so_many_blocks_and_no_more() -> None:
    with tiered_engine(make_cache(), max_demoted_blocks=2) as (engine, tiers):
        run(engine, task(PROMPT))
        run(engine, task(OTHER))
        settle(tiers)
        assert tiers.num_skipped > 0
        run(engine, task(PROMPT))


def test_kv_that_is_not_finite_comes_back_into_no_cache() -> None:
    with tiered_engine(make_cache()) as (engine, tiers):
        demote = tiers.demote
        nan = struct.pack("<f", math.nan)
        tiers.demote = lambda key, tenant, payload: demote(key, tenant, nan + bytes(payload)[4:])  # type: ignore[method-assign]
        run(engine, task(PROMPT))
        run(engine, task(OTHER))
        settle(tiers)
        run(engine, task(PROMPT))
        assert tiers.promoted.total() == 0 < tiers.host.stats().num_hits, "they were there, and were looked at"  # type: ignore[union-attr]
        assert hits(engine)[Tier.HOST] == 0


def test_a_late_fetch_is_not_waited_for_and_not_taken() -> None:
    with tiered_engine(make_cache(), max_hold_s=0.05) as (engine, tiers):
        run(engine, task(PROMPT))
        run(engine, task(OTHER))
        settle(tiers)
        fetches: list[Fetch] = []
        tiers.fetch = lambda fetch: fetches.append(fetch) or True  # type: ignore[method-assign, func-returns-value]
        began_s = time.monotonic()
        run(engine, task(PROMPT))
        assert 0.04 < time.monotonic() - began_s < 2.0
        assert [fetch.is_dropped for fetch in fetches] == [True]
        assert engine.promotions.num_late == 1
        assert hits(engine)[Tier.HOST] == 0


def test_while_one_is_held_others_run() -> None:
    with tiered_engine(make_cache(), max_hold_s=1.0, num_blocks=20) as (engine, tiers):
        run(engine, task(PROMPT))
        run(engine, task(OTHER + tuple(range(60, 72))))
        settle(tiers)
        tiers.fetch = lambda fetch: True  # type: ignore[method-assign]
        held, other = task(PROMPT), task((7, 8, 9))
        out = run_held(engine, [held, other])
        ends = [delta.request_id for result in out.results for delta in result.tokens if delta.finish_reason]
        assert ends == [other.request_id, held.request_id]
        for each in (held, other):
            assert out.tokens[each.request_id, 0] == reference_tokens(each, 0)


@pytest.mark.parametrize("whose", [Tenant("acme"), None])
def test_a_flush_reaches_host_memory_and_what_is_on_its_way_both_ways(whose: Tenant | None) -> None:
    with tiered_engine(make_cache()) as (engine, tiers):
        assert engine.cache is not None
        run(engine, task(PROMPT))
        run(engine, task(OTHER))  # its eviction of PROMPT may still be on its way
        assert engine.cache.flush(whose) > 0
        settle(tiers)
        assert tiers.host.stats().num_blocks == 0  # type: ignore[union-attr]
        assert engine.cache.events.num_held(Tier.HOST) == engine.cache.events.num_held(Tier.DEVICE) == 0
        assert cached(run(engine, task(PROMPT))) == 0
        run(engine, task(OTHER))
        settle(tiers)
        again = task(PROMPT)
        engine.start_local(again)
        assert engine.promotions.num_held == 1
        engine.cache.flush(whose)
        assert engine.promotions.num_held == 0
        out = run_held(engine, [])
        assert cached(out) == 0
        assert out.tokens[again.request_id, 0] == reference_tokens(again, 0)


def test_a_flush_of_one_tenant_leaves_the_others_blocks() -> None:
    with tiered_engine(make_cache()) as (engine, tiers):
        assert engine.cache is not None
        run(engine, task(PROMPT, "acme"))
        run(engine, task(OTHER, "bold"))
        settle(tiers)
        engine.cache.flush(Tenant("bold"))
        assert cached(run(engine, task(PROMPT, "bold"))) == 0
        assert cached(run(engine, task(PROMPT, "acme"))) == 20


def test_a_block_that_was_changed_in_host_memory_is_computed_again() -> None:
    with tiered_engine(make_cache()) as (engine, tiers):
        run(engine, task(PROMPT))
        run(engine, task(OTHER))
        settle(tiers)
        assert tiers.host is not None
        entries = tiers.host._entries
        for key in tuple(entries):
            entry = entries.get(key)
            assert entry is not None
            spoilt = bytearray(entry.value)
            spoilt[100] ^= 1
            entries.put(key, entry.tenant, len(spoilt), type(entry)(entry.key, entry.tenant, bytes(spoilt)))
        run(engine, task(PROMPT))
        assert tiers.host.stats().num_rejected == 1, "the first bad one ends the run"
        assert hits(engine)[Tier.HOST] == 0


def test_an_attempt_that_ends_while_it_is_held_leaves_nothing() -> None:
    with tiered_engine(make_cache()) as (engine, tiers):
        for prompt in (PROMPT, OTHER):
            run(engine, task(prompt))
            settle(tiers)
        gone = task(PROMPT)
        engine.start_local(gone)
        assert engine.promotions.num_held == 1
        assert engine.abort(key_of(gone))
        run_held(engine, [])
        assert engine.promotions.num_held == 0
        run(engine, task(PROMPT))


def test_random_prompts_through_a_small_pool_and_a_small_host_tier_are_never_wrong() -> None:
    rng = random.Random(5)
    bound = 20 * (137 + 2 * 4 * BLOCK)
    cache = make_cache(host={"memory_bytes": bound})
    starts = [tuple(rng.randrange(3, 300) for _ in range(36)) for _ in range(5)]
    with tiered_engine(cache, num_blocks=24, max_hold_s=0.5) as (engine, tiers):
        for turn in range(60):
            prompts = [
                (*rng.choice(starts)[: rng.randrange(8, 36)], rng.randrange(3, 300)) for _ in range(rng.randrange(1, 4))
            ]
            tasks = [task(prompt, rng.choice(["acme", "bold"])) for prompt in prompts]
            out = run_held(engine, tasks)
            for each in tasks:
                assert out.tokens[each.request_id, 0] == reference_tokens(each, 0), turn
            assert tiers.host is not None
            assert tiers.host.stats().num_bytes <= bound
            if turn % 13 == 12:
                assert engine.cache is not None
                engine.cache.flush(rng.choice([Tenant("acme"), None]))
            if turn % 2:
                settle(tiers)  # on a busy machine nothing else would ever be there in time
        assert tiers.promoted[Tier.HOST] > 20
        settle(tiers)
        assert engine.cache is not None
        assert tiers.host is not None
        assert engine.cache.events.num_held(Tier.HOST) == tiers.host.stats().num_blocks


def test_what_came_is_nobodys_before_it_is_used() -> None:
    with tiered_engine(make_cache()) as (engine, tiers):
        for prompt in (PROMPT, OTHER):
            run(engine, task(prompt))
            settle(tiers)
        engine.start_local(task(PROMPT))
        while engine.promotions.num_held:
            engine.has_work()
            time.sleep(0.001)
        assert tiers.promoted[Tier.HOST] > 0
        assert engine.table.num_readers == 0
        run_held(engine, [])


def test_without_tiers_nothing_is_held() -> None:
    engine = make_engine(16, cache=make_cache(), clock=SettableClock())
    for prompt in (PROMPT, OTHER, PROMPT):
        run(engine, task(prompt))
    assert engine.promotions.num_held == 0
    assert set(hits(engine)) == {Tier.DEVICE}
