"""Pool and table together: blocks come cleared, forks share what is full and copy what is not."""

import pytest
import torch

from tandem.core.blocks import AttemptKey
from tandem.core.ids import RequestId
from tandem.engine.kv.block_table import BlockState, NoBlocks
from tandem.engine.kv.memory import KvMemory
from tests.fakes.fake_runner import fake_pool

KEY = AttemptKey(RequestId("r"), 0)


def memory(num_blocks: int = 8) -> KvMemory:
    return KvMemory(fake_pool(num_blocks, block_size=4))


@pytest.mark.parametrize(("num_tokens", "num_blocks"), [(0, 0), (1, 1), (3, 1), (4, 1), (5, 2), (8, 2), (9, 3)])
def test_blocks_for(num_tokens: int, num_blocks: int) -> None:
    assert memory().blocks_for(num_tokens) == num_blocks


def test_blocks_come_cleared() -> None:
    kv = memory()
    kv.pool.data.fill_(float("nan"))
    refs = kv.allocate(KEY, 3, BlockState.COMMITTED)
    grown = kv.grow(KEY, refs[-1])
    for ref in (*refs, grown):
        assert not kv.pool.data[ref.block_id].any()
    assert torch.isnan(kv.pool.data).any(), "only its own blocks were touched"


@pytest.mark.parametrize("num_tokens", [4, 5, 7, 8])
def test_fork_shares_full_blocks_and_copies_the_partial_one(num_tokens: int) -> None:
    kv = memory()
    refs = kv.allocate(KEY, kv.blocks_for(num_tokens), BlockState.COMMITTED)
    for ref in refs:
        kv.pool.data[ref.block_id] = float(ref.block_id + 1)
    fork = kv.fork(KEY, refs, num_tokens)
    num_full = num_tokens // 4
    assert fork[:num_full] == refs[:num_full]
    assert [kv.table.num_references(ref) for ref in refs[:num_full]] == [2] * num_full
    for mine, theirs in zip(fork[num_full:], refs[num_full:], strict=True):
        assert mine != theirs
        assert torch.equal(kv.pool.data[mine.block_id], kv.pool.data[theirs.block_id])
        assert kv.table.num_references(theirs) == 1
    kv.table.release(KEY, fork)
    kv.table.release(KEY, refs)
    kv.table.check_integrity()
    assert kv.num_free == 8


def test_fork_ignores_blocks_behind_the_prompt() -> None:
    kv = memory()
    refs = kv.allocate(KEY, 4, BlockState.COMMITTED)
    assert len(kv.fork(KEY, refs, 5)) == 2


def test_a_failed_fork_changes_nothing() -> None:
    kv = memory(2)
    refs = kv.allocate(KEY, 2, BlockState.COMMITTED)
    with pytest.raises(NoBlocks):
        kv.fork(KEY, refs, 5)
    assert [kv.table.num_references(ref) for ref in refs] == [1, 1]


def test_scrub_clears_blocks_still_owned() -> None:
    kv = memory()
    refs = kv.allocate(KEY, 2, BlockState.COMMITTED)
    kv.pool.data.fill_(float("inf"))
    kv.scrub(refs[:1])
    assert not kv.pool.data[refs[0].block_id].any()
    assert torch.isinf(kv.pool.data[refs[1].block_id]).all()


def test_bytes_of_a_block_are_its_own_and_writable() -> None:
    kv = memory()
    view = kv.pool.bytes_view(3)
    assert len(view) == kv.pool.block_bytes
    view[:4] = b"\x00\x00\x80\x3f"
    assert kv.pool.data[3].reshape(-1)[0] == 1.0
    kv.pool.copy(3, 5)
    assert bytes(kv.pool.bytes_view(5)) == bytes(view)
