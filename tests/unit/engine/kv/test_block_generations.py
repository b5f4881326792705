"""A reference is good for one use of a block, even where the next use is the same owner's in the same state."""

import pytest

from tandem.core.blocks import AttemptKey
from tandem.core.ids import RequestId
from tandem.engine.kv.block_table import BlockState, BlockTable, IntegrityError

OWNER, OTHER = AttemptKey(RequestId("a"), 0), AttemptKey(RequestId("b"), 0)


def test_a_write_for_an_earlier_use_by_the_same_owner_is_refused() -> None:
    table = BlockTable(1)
    (old,) = table.allocate(OWNER, 1, BlockState.RECEIVING)
    table.release(OWNER, (old,))
    (new,) = table.allocate(OWNER, 1, BlockState.RECEIVING)
    assert new.block_id == old.block_id
    assert not table.begin_write(old, OWNER)
    assert table.begin_write(new, OWNER)


def test_a_copy_of_an_earlier_use_by_the_same_owner_is_refused() -> None:
    table = BlockTable(1)
    (old,) = table.allocate(OWNER, 1, BlockState.FILLING)
    table.release(OWNER, (old,))
    (new,) = table.allocate(OWNER, 1, BlockState.FILLING)
    table.seal(OWNER, (new,))
    assert not table.pin(old, OWNER)
    assert table.pin(new, OWNER)


def test_releasing_an_earlier_use_by_the_same_owner_is_refused_and_takes_nothing() -> None:
    table = BlockTable(1)
    (old,) = table.allocate(OWNER, 1, BlockState.COMMITTED)
    table.release(OWNER, (old,))
    (new,) = table.allocate(OWNER, 1, BlockState.COMMITTED)
    for operation in (table.release, table.share, table.cache):
        with pytest.raises(IntegrityError, match="is not held by"):
            operation(OWNER, (old,))
    assert (table.num_references(new), table.num_free) == (1, 0)
    table.check_integrity()


def test_releasing_what_another_owns_is_refused_and_takes_nothing() -> None:
    table = BlockTable(1)
    (ref,) = table.allocate(OWNER, 1, BlockState.COMMITTED)
    with pytest.raises(IntegrityError, match="is not held by"):
        table.release(OTHER, (ref,))
    assert (table.num_references(ref), table.num_free) == (1, 0)
    table.check_integrity()


def test_releasing_a_cached_block_that_only_another_reads_is_refused_and_takes_nothing() -> None:
    table = BlockTable(1)
    (ref,) = table.allocate(OWNER, 1, BlockState.COMMITTED)
    table.cache(OWNER, (ref,))
    with pytest.raises(IntegrityError, match="is not held by"):
        table.release(OTHER, (ref,))
    assert (table.num_references(ref), table.num_available) == (1, 0)
    assert table.release(OWNER, (ref,)) == (ref,)
    table.check_integrity()


def test_a_block_whose_kv_is_not_complete_enters_no_cache_and_takes_the_others_with_it() -> None:
    table = BlockTable(2)
    (whole,) = table.allocate(OWNER, 1, BlockState.COMMITTED)
    (half,) = table.allocate(OWNER, 1, BlockState.RECEIVING)
    with pytest.raises(IntegrityError, match="RECEIVING and can't be cached"):
        table.cache(OWNER, (whole, half))
    assert table.counts().cached == 0
    assert table.begin_write(half, OWNER)
    assert table.end_write(half)
    table.check_integrity()
