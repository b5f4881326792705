"""A reference is good for one use of a block, even where the next use is the same owner's in the same state."""

from tandem.core.blocks import AttemptKey
from tandem.core.ids import RequestId
from tandem.engine.kv.block_table import BlockState, BlockTable

OWNER = AttemptKey(RequestId("a"), 0)


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
