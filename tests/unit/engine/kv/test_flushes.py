"""Flushes: at once out of sight, given up in slices, nobody else's; nothing comes back that was on its way."""

import pytest

from tandem.core.blocks import AttemptKey, BlockRef
from tandem.core.ids import Tenant
from tandem.engine.kv import block_cache
from tandem.engine.kv.block_cache import CacheSetup
from tandem.engine.kv.block_table import BlockState
from tandem.engine.kv.chain import Chain
from tandem.prefix_cache.events import Removed
from tests.fakes.cache_bench import ALICE, BOB, PROMPT, Bench
from tests.fakes.engine_driver import make_cache

PUBLIC = PROMPT[:8]  # two blocks
MINE, HIS = (*PUBLIC, *range(30, 38)), (*PUBLIC, *range(50, 58))


def _with_public(**settings: object) -> CacheSetup:
    return make_cache(public_prefixes=({"token_ids": PUBLIC},), **settings)


def test_a_public_prefix_is_nobodys_to_flush() -> None:
    bench = Bench(setup=_with_public(max_pinned_share=1.0, max_pinned_tenant_share=1.0))
    bench.run(ALICE, MINE)
    bench.run(BOB, HIS)
    assert bench.cache.keep(BOB, HIS, 10.0) == 16
    assert bench.cache.flush(ALICE) == 2, "her own two; the public ones are found again by everybody"
    assert (bench.found(ALICE, MINE), bench.found(BOB, HIS)) == (2, 4)
    assert bench.cache.stats().num_kept == 4, "his pin holds"
    key, refs = bench.compute(BOB, (*PUBLIC, *range(70, 78)))
    assert bench.found(BOB, (*PUBLIC, *range(70, 78))) == 4, "what follows a public prefix is cached as before"
    bench.memory.release(key, refs)
    assert bench.cache.flush(None) == 6, "all means all"
    assert bench.found(BOB, HIS) == 0
    bench.check()


def test_a_flush_during_a_public_prefix_is_being_computed_takes_only_what_is_hers() -> None:
    bench = Bench(setup=_with_public())
    key, chain, own = _on_its_way(bench)
    bench.cache.flush(ALICE)
    bench.cache.enter(key, ALICE, chain, own)
    assert chain.is_closed
    assert bench.found(BOB, HIS) == 2, "the public part came in"
    bench.memory.release_all(key)
    assert bench.found(ALICE, MINE) == 2
    bench.check()


@pytest.mark.parametrize("whose", [ALICE, None])
def test_what_was_on_its_way_at_a_flush_does_not_come_in(whose: Tenant | None) -> None:
    """A hand-over that was granted before the flush and landed after it; a prompt that was being computed."""
    bench = Bench()
    key, chain, own = _on_its_way(bench)
    bench.cache.flush(whose)
    assert bench.cache.enter(key, ALICE, chain, own) == own
    bench.memory.release_all(key)
    assert bench.found(ALICE, MINE) == 0
    bench.run(ALICE, MINE)
    assert bench.found(ALICE, MINE) == 4, "what begins later is cached"
    bench.check()


def test_a_flush_of_another_tenant_keeps_nothing_out() -> None:
    bench = Bench()
    key, chain, own = _on_its_way(bench)
    bench.cache.flush(BOB)
    bench.cache.enter(key, ALICE, chain, own)
    bench.memory.release_all(key)
    assert bench.found(ALICE, MINE) == 4


def test_a_flush_is_out_of_sight_at_once_and_given_up_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_cache, "_SLICE_BLOCKS", 3)
    bench = Bench(num_blocks=64)
    prompts = [tuple(range(100 * number, 100 * number + 16)) for number in range(1, 9)]
    for prompt in prompts:
        bench.run(ALICE, prompt)
    assert bench.cache.flush(ALICE) == 32
    assert [bench.found(ALICE, prompt) for prompt in prompts] == [0] * 8
    assert isinstance(bench.events()[-1], Removed)
    assert bench.memory.table.num_free <= 32 + 3, "one slice"
    assert bench.memory.num_free == 64, "all of it can be had"
    key = bench.key()
    bench.memory.allocate(key, 64, BlockState.COMMITTED)
    bench.memory.release_all(key)
    assert bench.memory.table.num_free == 64
    bench.check()


def test_a_flushed_block_goes_when_the_last_one_that_follows_it_goes() -> None:
    """The one who reads the end of a prompt may have let go of its beginning before."""
    bench = Bench()
    key, refs = bench.compute(ALICE)
    bench.cache.flush(ALICE)
    bench.memory.release(key, refs[:3])
    assert bench.memory.table.num_free == 8
    bench.memory.release(key, refs[3:])
    assert bench.memory.table.num_free == 12
    bench.check()


def _on_its_way(bench: Bench) -> tuple[AttemptKey, Chain, tuple[BlockRef, ...]]:
    key, chain = bench.key(), bench.chain(ALICE, MINE)
    return key, chain, bench.memory.allocate(key, 4, BlockState.COMMITTED)
