"""Names, tree and table together: what is found, lent, taken in, given up, flushed and pinned."""

from dataclasses import replace

import pytest

from tandem.core.blocks import BlockRef
from tandem.core.errors import InternalError
from tandem.engine.kv.block_cache import Found
from tandem.engine.kv.block_table import BlockState, IntegrityError, NoBlocks
from tandem.prefix_cache.events import Cleared, Removed, Stored
from tandem.prefix_cache.eviction.choice import EvictionName
from tests.fakes.cache_bench import ALICE, BOB, PROMPT, Bench
from tests.fakes.engine_driver import make_cache


def test_what_was_computed_once_is_found_and_lent() -> None:
    bench = Bench()
    refs = bench.run(ALICE)
    assert bench.found(ALICE) == 4
    assert bench.found(ALICE, (*PROMPT[:8], 1, 2, 3, 4)) == 2
    assert bench.found(ALICE, (1, *PROMPT[1:])) == 0
    key, again = bench.compute(ALICE)
    assert again == refs
    assert bench.memory.num_free == 8
    bench.memory.release(key, again)
    assert bench.memory.num_free == 12


def test_no_tenant_finds_what_is_anothers() -> None:
    bench = Bench()
    mine = bench.run(ALICE)
    assert bench.found(BOB) == 0
    assert not {ref.block_id for ref in bench.run(BOB)} & {ref.block_id for ref in mine}


def test_other_secrets_and_layouts_name_other_blocks() -> None:
    bench = Bench()
    other = Bench(setup=replace(make_cache(), secret=b"another secret, 16+"))
    assert not set(bench.chain(ALICE, PROMPT).keys) & set(other.chain(ALICE, PROMPT).keys)
    layout = Bench(setup=replace(make_cache(), layout_fingerprint="other"))
    assert not set(bench.chain(ALICE, PROMPT).keys) & set(layout.chain(ALICE, PROMPT).keys)


def test_the_secret_is_not_shown() -> None:
    assert "secret" not in repr(make_cache())


def test_public_prefixes_are_shared_and_nothing_behind_them() -> None:
    bench = Bench(setup=make_cache(public_prefixes=[{"token_ids": PROMPT[:8]}]))
    bench.run(ALICE)
    assert bench.found(BOB) == 2
    assert bench.found(ALICE) == 4


def test_two_who_compute_the_same_share_at_the_end() -> None:
    """The second one's blocks are free again, and it reads the first one's."""
    bench = Bench()
    (one, two), (first, second) = (bench.key(), bench.key()), (bench.chain(ALICE, PROMPT), bench.chain(ALICE, PROMPT))
    own = [bench.memory.allocate(key, 4, BlockState.COMMITTED) for key in (one, two)]
    assert bench.cache.enter(one, ALICE, first, own[0]) == own[0]
    assert bench.cache.enter(two, ALICE, second, own[1]) == own[0]
    assert bench.memory.num_free == 8
    bench.memory.release(one, own[0])
    assert bench.memory.num_free == 8, "the other one reads them"
    bench.memory.release(two, own[0])
    assert bench.memory.num_free == 12
    bench.check()


def test_room_is_made_from_the_ends_of_what_nobody_reads() -> None:
    bench = Bench(num_blocks=8)
    bench.run(ALICE)
    key, _ = bench.compute(BOB)
    other = bench.key()
    bench.memory.allocate(other, 3, BlockState.COMMITTED)
    assert bench.found(ALICE) == 1, "leaves go first"
    assert bench.found(BOB) == 4, "what is read stays"
    with pytest.raises(NoBlocks):
        bench.memory.allocate(other, 2, BlockState.COMMITTED)
    assert bench.found(ALICE) == 1, "a refusal gives nothing up"
    assert bench.cache.stats().num_evicted == 3
    bench.memory.release_all(key)
    bench.check()


@pytest.mark.parametrize("policy", list(EvictionName))
def test_every_policy_gives_up_one_block_at_a_time(policy: EvictionName) -> None:
    bench = Bench(setup=make_cache(eviction=policy))
    for start in (100, 200, 300):
        bench.run(ALICE, range(start, start + 16))
    for num_left in range(11, -1, -1):
        bench.cache.make_room(12 - num_left)
        bench.check()
        assert bench.cache.stats().num_blocks == num_left


def test_a_flood_takes_its_own_blocks_first() -> None:
    bench = Bench(num_blocks=16, setup=make_cache(eviction="lru"))
    bench.run(BOB)
    for start in range(200, 1000, 16):
        bench.run(ALICE, range(start, start + 16))
    assert bench.found(BOB) == 4


@pytest.mark.parametrize(("weight", "num_left"), [(0.25, 13), (1.0, 32), (3.0, 48)])
def test_weights_say_how_much_of_the_room_a_tenant_keeps(weight: float, num_left: int) -> None:
    bench = Bench(num_blocks=64, setup=make_cache(tenant_weights={str(BOB): weight}, eviction="lru"))
    for start in range(200, 1000, 16):
        bench.run(BOB, range(start, start + 16))
    for start in range(200, 1000, 16):
        bench.run(ALICE, range(start, start + 16))
    held = {use.tenant: use.num_blocks for use in bench.cache.stats().tenants}
    assert held[BOB] == pytest.approx(num_left, abs=4)  # a prompt is four blocks


def test_events_tell_what_can_be_had() -> None:
    bench = Bench(num_blocks=4)
    keys = tuple(bench.chain(ALICE, PROMPT).keys)
    bench.run(ALICE)
    bench.run(ALICE, (*PROMPT[:8], 1, 2, 3, 4))
    stored, removed, more = bench.events()
    assert isinstance(stored, Stored)
    assert stored.keys == keys
    assert isinstance(removed, Removed)
    assert removed.keys == (keys[3],)
    assert isinstance(more, Stored)
    assert len(more.keys) == 1


def test_flushed_blocks_are_never_found_again() -> None:
    bench = Bench()
    bench.run(ALICE)
    bench.run(BOB)
    assert bench.cache.flush(ALICE) == 4
    assert (bench.found(ALICE), bench.found(BOB)) == (0, 4)
    assert bench.memory.table.num_free == 8
    assert bench.cache.flush(None) == 4
    assert isinstance(bench.events()[-1], Cleared)
    assert bench.memory.table.num_free == 12
    assert bench.cache.flush(None) == 0


def test_what_is_read_during_a_flush_goes_with_its_last_reader() -> None:
    bench = Bench()
    key, refs = bench.compute(ALICE)
    assert bench.cache.flush(ALICE) == 4
    assert bench.found(ALICE) == 0
    assert [bench.memory.table.num_references(ref) for ref in refs] == [1] * 4
    late = bench.key()
    chain = bench.chain(ALICE, PROMPT)
    own = bench.memory.allocate(late, 4, BlockState.COMMITTED)
    assert bench.cache.enter(late, ALICE, chain, own) == own, "what others flushed is not lent"
    assert chain.is_closed
    bench.memory.release_all(key)
    bench.memory.release_all(late)
    assert bench.memory.table.num_free == 12
    bench.check()
    bench.run(ALICE)
    assert bench.found(ALICE) == 4, "later ones cache again"


def test_a_pinned_prefix_outlives_pressure_until_its_time_is_over() -> None:
    bench = Bench(num_blocks=8, setup=make_cache(max_pinned_share=1.0, max_pinned_tenant_share=1.0))
    bench.run(ALICE)
    assert bench.cache.keep(ALICE, PROMPT[:11], 10.0) == 8
    assert bench.cache.keep(BOB, PROMPT, 10.0) == 0, "nothing of it is his"
    assert bench.memory.num_free == 6
    bench.run(BOB, range(200, 224))
    assert bench.found(ALICE) == 2
    bench.clock.time_s += 11.0
    bench.run(BOB, range(300, 332))
    assert bench.found(ALICE) == 0
    assert bench.cache.stats().num_kept == 0


def test_a_flush_ends_pins() -> None:
    bench = Bench(setup=make_cache(max_pinned_share=1.0, max_pinned_tenant_share=1.0))
    bench.run(ALICE)
    bench.run(BOB)
    bench.cache.keep(ALICE, PROMPT, 10.0)
    bench.cache.keep(BOB, PROMPT, 10.0)
    assert bench.cache.flush(ALICE) == 4
    assert bench.memory.num_free == 8
    assert bench.cache.flush(BOB) == 4
    assert bench.memory.num_free == 12
    bench.check()


def test_no_more_pins_end_than_a_request_needs() -> None:
    bench = Bench(num_blocks=20, setup=make_cache(max_pinned_share=1.0, max_pinned_tenant_share=1.0))
    for tenant, prompt, ttl_s in (
        (ALICE, range(100, 116), 30.0),
        (BOB, range(200, 216), 10.0),
        (BOB, range(300, 316), 20.0),
        (ALICE, range(400, 416), 5.0),
    ):
        bench.run(tenant, prompt)
        assert bench.cache.keep(tenant, tuple(prompt), ttl_s) == 16
    memory, cache = bench.memory, bench.cache

    assert memory.num_free == 4
    memory.yield_pins(4, BOB)
    assert cache.stats().num_kept == 16, "it fits beside them"
    memory.yield_pins(21, BOB)
    assert cache.stats().num_kept == 16, "it would not fit without them either"
    memory.yield_pins(5, BOB)
    assert (cache.stats().num_kept, cache.stats().num_unpinned) == (12, 1)
    memory.yield_pins(13, BOB)
    assert cache.stats().num_unpinned == 3, "then its other one, then whose time is over first"
    bench.clock.time_s += 29.0
    assert memory.num_free == 16, "the one of half a minute stands"
    memory.yield_pins(20, BOB)
    assert (memory.num_free, cache.stats().num_unpinned) == (20, 4)
    assert not cache.unkeep_one(BOB)
    bench.check()


def test_a_pinned_block_that_a_sender_copies_is_not_given_away() -> None:
    bench = Bench(num_blocks=4)
    key, refs = bench.compute(ALICE)
    assert bench.memory.table.pin(refs[3], key)
    bench.memory.release_all(key)
    assert bench.memory.num_free == 3
    assert not bench.memory.table.pin(refs[0], key), "it reads nothing any more"
    with pytest.raises(NoBlocks):
        bench.memory.allocate(bench.key(), 4, BlockState.COMMITTED)
    bench.memory.allocate(bench.key(), 3, BlockState.COMMITTED)
    assert bench.memory.table.counts().released == 1, "evicted, and free when the copy ends"
    assert not bench.memory.table.unpin(refs[3])
    assert bench.memory.num_free == 1
    bench.check()


def test_found_says_what_costs_nothing() -> None:
    bench = Bench()
    bench.run(ALICE)
    chain = bench.chain(ALICE, PROMPT)
    assert bench.cache.find(chain, 3) == Found(num_blocks=3, num_busy=0)
    key = bench.key()
    bench.cache.lend(key, bench.chain(ALICE, PROMPT), 2)
    assert bench.cache.find(chain, 3) == Found(num_blocks=3, num_busy=2)
    bench.memory.release_all(key)


def test_defects_are_loud() -> None:
    bench = Bench()
    key, refs = bench.compute(ALICE)
    with pytest.raises(IntegrityError, match="evicted while"):
        bench.memory.table.evict(refs)
    with pytest.raises(IntegrityError, match="not cached"):
        bench.memory.table.borrow(key, [BlockRef(refs[0].block_id, refs[0].generation + 1)])
    own = bench.memory.allocate(key, 1, BlockState.RECEIVING)
    with pytest.raises(IntegrityError, match="RECEIVING and can't be cached"):
        bench.memory.table.cache(key, own)
    with pytest.raises(InternalError):
        bench.cache._tree.unuse(bench.chain(ALICE, PROMPT).keys * 2)
