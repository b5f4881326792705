"""Ownership, references, pins and generations, case by case."""

import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tandem.core import reasons
from tandem.core.blocks import AttemptKey, BlockRef
from tandem.core.ids import RequestId
from tandem.engine.kv.block_table import BlockCounts, BlockState, BlockTable, IntegrityError, NoBlocks, Placement

A, B = (AttemptKey(RequestId(name), 0) for name in "ab")


@pytest.fixture
def table() -> Iterator[BlockTable]:
    table = BlockTable(8)
    yield table
    table.check_integrity()


def test_a_pool_needs_a_block() -> None:
    with pytest.raises(ValueError, match="at least 1 block"):
        BlockTable(0)


def test_allocation_is_all_or_nothing(table: BlockTable) -> None:
    table.allocate(A, 6, BlockState.COMMITTED)
    with pytest.raises(NoBlocks, match="3 KV blocks are needed and 2 of 8 are free") as caught:
        table.allocate(B, 3, BlockState.COMMITTED)
    assert caught.value.reason == reasons.NO_BLOCKS
    assert caught.value.retryable
    assert table.num_free == 2


def test_generation_grows_by_one_with_every_allocation(table: BlockTable) -> None:
    refs = [ref for _ in range(3) for ref in _use_and_release(table)]
    by_block = {ref.block_id: [r.generation for r in refs if r.block_id == ref.block_id] for ref in refs}
    assert all(generations == [1, 2, 3] for generations in by_block.values())


def _use_and_release(table: BlockTable) -> tuple[BlockRef, ...]:
    refs = table.allocate(A, 8, BlockState.COMMITTED)
    table.release(A, refs)
    return refs


def test_generation_wraps_at_32_bits() -> None:
    table = BlockTable(1)
    table._generation[0] = 0xFFFF_FFFF
    assert table.allocate(A, 1, BlockState.FILLING)[0].generation == 0


def test_shared_blocks_stay_until_the_last_reference(table: BlockTable) -> None:
    refs = table.allocate(A, 2, BlockState.COMMITTED)
    table.share(A, refs)
    table.release(A, refs)
    assert table.num_free == 6
    assert table.num_references(refs[0]) == 1
    table.release(A, refs)
    assert table.num_free == 8
    assert table.num_references(refs[0]) == 0


def test_nothing_changes_when_one_reference_of_many_is_wrong(table: BlockTable) -> None:
    refs = table.allocate(A, 2, BlockState.COMMITTED)
    stale = BlockRef(refs[1].block_id, refs[1].generation - 1)
    with pytest.raises(IntegrityError):
        table.release(A, [refs[0], stale])
    assert table.num_references(refs[0]) == 1


def test_releasing_one_reference_twice_in_one_call_is_refused(table: BlockTable) -> None:
    refs = table.allocate(A, 1, BlockState.COMMITTED)
    with pytest.raises(IntegrityError, match="more often"):
        table.release(A, [*refs, *refs])


def test_foreign_keys_can_do_nothing(table: BlockTable) -> None:
    sealed = table.allocate(A, 1, BlockState.FILLING)
    table.seal(A, sealed)
    receiving = table.allocate(A, 1, BlockState.RECEIVING)
    assert not table.pin(sealed[0], B)
    assert not table.begin_write(receiving[0], B)
    for operation in (table.release, table.share, table.seal):
        with pytest.raises(IntegrityError, match="is not held by"):
            operation(B, sealed)
    assert table.release_all(B) == 0


@pytest.mark.parametrize("block_id", [-1, 8, 1 << 31])
def test_references_from_outside_the_pool_are_refused(table: BlockTable, block_id: int) -> None:
    assert not table.pin(BlockRef(block_id, 0), A)
    assert not table.begin_write(BlockRef(block_id, 0), A)


def test_a_block_can_be_pinned_only_once_it_is_sealed(table: BlockTable) -> None:
    refs = table.allocate(A, 1, BlockState.FILLING)
    assert not table.pin(refs[0], A)
    table.seal(A, refs)
    assert table.pin(refs[0], A)
    assert table.unpin(refs[0])


def test_sealing_twice_is_a_defect(table: BlockTable) -> None:
    refs = table.allocate(A, 1, BlockState.FILLING)
    table.seal(A, refs)
    with pytest.raises(IntegrityError, match="only FILLING"):
        table.seal(A, refs)


def test_released_while_pinned_is_free_at_the_last_unpin(table: BlockTable) -> None:
    refs = table.allocate(A, 1, BlockState.FILLING)
    table.seal(A, refs)
    assert table.pin(refs[0], A)
    assert table.pin(refs[0], A)
    table.release_all(A)
    assert not table.pin(refs[0], A), "nobody may join in any more"
    assert table.counts().released == 1
    assert not table.unpin(refs[0])
    assert table.num_free == 7
    assert not table.unpin(refs[0])
    assert table.num_free == 8
    with pytest.raises(IntegrityError, match="was not held"):
        table.unpin(refs[0])


def test_a_write_that_outlives_its_reservation_does_not_count(table: BlockTable) -> None:
    refs = table.allocate(A, 1, BlockState.RECEIVING)
    assert table.begin_write(refs[0], A)
    table.release_all(A)
    assert not table.end_write(refs[0])
    again = table.allocate(B, 8, BlockState.RECEIVING)
    assert not table.begin_write(refs[0], A)
    assert table.begin_write(again[0], B)
    assert table.end_write(again[0])


def test_committed_blocks_take_no_more_writes(table: BlockTable) -> None:
    refs = table.allocate(A, 2, BlockState.RECEIVING)
    table.commit(A)
    assert not table.begin_write(refs[0], A)
    assert table.counts().committed == 2


def test_commit_waits_for_no_writer(table: BlockTable) -> None:
    refs = table.allocate(A, 1, BlockState.RECEIVING)
    table.begin_write(refs[0], A)
    with pytest.raises(IntegrityError, match="while a writer holds them"):
        table.commit(A)
    table.end_write(refs[0])
    table.commit(A)


def test_only_received_blocks_are_committed(table: BlockTable) -> None:
    table.allocate(A, 1, BlockState.FILLING)
    with pytest.raises(IntegrityError, match="not received"):
        table.commit(A)


def test_counts_add_up(table: BlockTable) -> None:
    sealed = table.allocate(A, 2, BlockState.FILLING)
    table.seal(A, sealed[:1])
    table.allocate(B, 3, BlockState.RECEIVING)
    counts = BlockCounts(total=8, free=3, filling=1, sealed=1, receiving=3, committed=0, released=0)
    assert table.counts() == counts


def test_growth_follows_the_last_block(table: BlockTable) -> None:
    first = table.allocate(A, 2, BlockState.COMMITTED)
    second = table.allocate(B, 1, BlockState.COMMITTED)
    assert table.grow(A, 1, BlockState.COMMITTED, first[-1])[0].block_id == first[-1].block_id + 1
    assert table.grow(B, 1, BlockState.COMMITTED, second[-1])[0].block_id == second[-1].block_id + 1


def test_packed_prompts_lie_side_by_side(table: BlockTable) -> None:
    ids = [ref.block_id for key in (A, B) for ref in table.allocate(key, 3, BlockState.FILLING, Placement.PACKED)]
    assert ids == [0, 1, 2, 3, 4, 5]


CORRUPTIONS: dict[str, Callable[[BlockTable], object]] = {
    "lost from the free runs": lambda t: t._runs.take_packed(1),
    "two owners": lambda t: t._owned.update({B: {0}}),
    "reference count": lambda t: t._references.__setitem__(0, 0),
    "owner": lambda t: t._owner.__setitem__(0, B),
    "pins of a free block": lambda t: t._pins.__setitem__(7, 1),
    "state": lambda t: t._state.__setitem__(0, BlockState.FREE),
    "counters": lambda t: t._num_in_state.update({BlockState.SEALED: 1}),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_integrity_check_sees_corruption_and_draws_it(name: str) -> None:
    table = BlockTable(8)
    table.allocate(A, 1, BlockState.COMMITTED)
    table.check_integrity()
    CORRUPTIONS[name](table)
    with pytest.raises(IntegrityError, match="KV block table") as caught:
        table.check_integrity()
    assert caught.value.reason == "KV_TABLE_INTEGRITY"


def test_threads_never_read_or_write_another_use_of_a_block() -> None:
    """A sender keeps copying out while the owner frees and reuses: every copy that counts holds its owner's bytes."""
    table, content = BlockTable(2), [0, 0]
    shared: list[tuple[BlockRef, AttemptKey, int]] = []
    stop, copies = threading.Event(), [0]
    torn: list[int] = []

    def send() -> None:
        while not stop.is_set():
            if not shared:
                continue
            ref, key, tag = shared[-1]
            if table.pin(ref, key):
                first = content[ref.block_id]
                time.sleep(2e-5)  # a copy takes its time
                seen = [first, content[ref.block_id]]
                table.unpin(ref)
                copies[0] += 1
                torn.extend(value for value in seen if value != tag)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    sender = threading.Thread(target=send)
    sender.start()
    try:
        until_s = time.monotonic() + 30.0  # by time: on a busy machine the sender's thread gets few turns
        for tag in itertools.count(1):
            if copies[0] >= 30 or time.monotonic() > until_s:
                break
            key = AttemptKey(RequestId("r"), tag)
            try:
                ref = table.allocate(key, 1, BlockState.FILLING)[0]
            except NoBlocks:
                continue  # both blocks wait for the sender's unpin
            content[ref.block_id] = tag
            table.seal(key, [ref])
            shared.append((ref, key, tag))
            table.release_all(key)
            if len(shared) > 3:
                shared.pop(0)
    finally:
        stop.set()
        sender.join()
        sys.setswitchinterval(interval)
    assert torn == []
    assert copies[0] >= 30
    table.check_integrity()
    assert table.num_free == 2
