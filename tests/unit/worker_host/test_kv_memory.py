"""The KV threads' door to the engine's blocks: whose bytes may be touched, and what becomes of blocks freed then."""

import random
import threading
from collections.abc import Callable

import pytest
import torch

from tandem.core.blocks import AttemptKey, BlockRef
from tandem.core.ids import RequestId
from tandem.engine.kv.block_table import BlockState, BlockTable, IntegrityError, NoBlocks
from tandem.engine.kv.pool import KvPool
from tandem.engine.spec import LayerSpec, ModelSpec
from tandem.worker_host.kv_memory import EngineBlockMemory

SPEC = ModelSpec(
    architecture="llama",
    digest="d",
    dtype="float32",
    vocab_size=8,
    max_context_tokens=64,
    layers=tuple(LayerSpec(index=i, num_heads=2, num_kv_heads=2, head_dim=4, scale=0.5) for i in range(3)),
    num_kv_heads=2,
    head_dim=4,
    rope_digest="r",
)
MINE, OTHER = AttemptKey(RequestId("a"), 0), AttemptKey(RequestId("b"), 0)
Take = Callable[[BlockRef, AttemptKey], memoryview | None]


class _Bench:
    def __init__(self, num_blocks: int = 4) -> None:
        self.table = BlockTable(num_blocks)
        self.pool = KvPool(SPEC, num_blocks=num_blocks, block_size=4, device="cpu", dtype=torch.float32)
        self.memory = EngineBlockMemory(self.table, self.pool)

    def sealed(self, num_blocks: int = 1) -> tuple[BlockRef, ...]:
        refs = self.table.allocate(MINE, num_blocks, BlockState.FILLING)
        self.table.seal(MINE, refs)
        return refs

    def receiving(self, num_blocks: int = 1) -> tuple[BlockRef, ...]:
        return self.table.allocate(MINE, num_blocks, BlockState.RECEIVING)


def _held(view: memoryview | None) -> memoryview:
    assert view is not None
    return view


def test_the_view_is_exactly_the_blocks_bytes_and_no_copy() -> None:
    bench = _Bench()
    refs = bench.receiving(3)
    view = _held(bench.memory.begin_write(refs[1], MINE))
    assert (view.nbytes, view.contiguous, view.readonly) == (bench.pool.block_bytes, True, False)
    view[:] = b"\x7f" * view.nbytes
    bytes_of = bench.pool.data.view(torch.uint8)
    touched = [block for block in range(4) if bool((bytes_of[block] != 0).any())]
    assert touched == [refs[1].block_id]
    assert bool((bytes_of[refs[1].block_id] == 0x7F).all())
    bench.memory.end_write(refs[1], MINE)


def test_what_the_engine_computed_is_what_is_sent() -> None:
    bench = _Bench()
    (ref,) = bench.sealed()
    values = torch.randn(bench.pool.data[ref.block_id].shape)
    bench.pool.data[ref.block_id] = values
    view = _held(bench.memory.pin(ref, MINE))
    assert torch.equal(torch.frombuffer(bytearray(view), dtype=torch.float32), values.reshape(-1))
    bench.memory.unpin(ref, MINE)
    bench.table.check_integrity()


def test_another_generation_owner_or_number_gets_nothing() -> None:
    bench = _Bench()
    (sealed,), (receiving,) = bench.sealed(), bench.receiving()
    doors: list[tuple[Take, BlockRef]] = [(bench.memory.pin, sealed), (bench.memory.begin_write, receiving)]
    for take, ref in doors:
        assert take(BlockRef(ref.block_id, ref.generation + 1), MINE) is None
        assert take(BlockRef(ref.block_id, ref.generation - 1), MINE) is None
        assert take(BlockRef(-1, ref.generation), MINE) is None
        assert take(BlockRef(4, ref.generation), MINE) is None
        assert take(BlockRef(2**31, ref.generation), MINE) is None
        assert take(ref, OTHER) is None
        assert take(ref, AttemptKey(MINE.request_id, 1)) is None
    bench.table.release_all(MINE)
    bench.table.check_integrity()
    assert bench.table.num_free == 4  # a refusal holds nothing


@pytest.mark.parametrize("state", [BlockState.FILLING, BlockState.RECEIVING])
def test_only_sealed_blocks_can_be_read(state: BlockState) -> None:
    bench = _Bench()
    (ref,) = bench.table.allocate(MINE, 1, state)
    assert bench.memory.pin(ref, MINE) is None
    if state is BlockState.RECEIVING:
        bench.table.commit(MINE)
        assert bench.memory.pin(ref, MINE) is None


def test_only_blocks_that_wait_for_bytes_can_be_written() -> None:
    bench = _Bench()
    (filling,) = bench.table.allocate(OTHER, 1, BlockState.FILLING)
    (sealed,) = bench.sealed()
    assert bench.memory.begin_write(filling, OTHER) is None
    assert bench.memory.begin_write(sealed, MINE) is None
    bench.table.release_all(MINE)
    (received,) = bench.receiving()
    bench.table.commit(MINE)
    assert bench.memory.begin_write(received, MINE) is None


@pytest.mark.parametrize("side", ["sender", "receiver"])
def test_a_block_freed_while_it_is_held_waits_for_the_holder(side: str) -> None:
    bench = _Bench(num_blocks=1)
    (ref,) = bench.sealed() if side == "sender" else bench.receiving()
    take = bench.memory.pin if side == "sender" else bench.memory.begin_write
    drop = bench.memory.unpin if side == "sender" else bench.memory.end_write
    _held(take(ref, MINE))
    _held(take(ref, MINE))  # two chunks of one block
    bench.table.release_all(MINE)
    assert take(ref, MINE) is None  # nobody new gets at it
    for _ in range(2):
        with pytest.raises(NoBlocks):
            bench.table.allocate(OTHER, 1, BlockState.FILLING)
        bench.table.check_integrity()
        drop(ref, MINE)
    (again,) = bench.table.allocate(OTHER, 1, BlockState.FILLING)
    assert again.block_id == ref.block_id
    assert again.generation != ref.generation


def test_letting_go_of_what_was_not_held_is_a_defect() -> None:
    bench = _Bench()
    (ref,) = bench.receiving()
    with pytest.raises(IntegrityError, match="was not held"):
        bench.memory.end_write(ref, MINE)
    _held(bench.memory.begin_write(ref, MINE))
    with pytest.raises(IntegrityError, match="was not held"):
        bench.memory.end_write(BlockRef(ref.block_id, ref.generation + 1), MINE)
    bench.memory.end_write(ref, MINE)


def test_a_commit_under_a_writer_is_a_defect() -> None:
    bench = _Bench()
    (ref,) = bench.receiving()
    _held(bench.memory.begin_write(ref, MINE))
    with pytest.raises(IntegrityError, match="while a writer holds"):
        bench.table.commit(MINE)
    bench.memory.end_write(ref, MINE)
    bench.table.commit(MINE)


class _LateWriter(threading.Thread):
    """Writes an attempt's number into its blocks, often long after the attempt has lost them."""

    def __init__(self, bench: _Bench, seed: int) -> None:
        super().__init__()
        self._bench = bench
        self._draw = random.Random(seed)
        self.attempts: list[tuple[AttemptKey, tuple[BlockRef, ...]]] = []
        self.stopping = threading.Event()
        self.num_written = 0
        self.num_refused = 0

    def run(self) -> None:
        while not self.stopping.is_set():
            recent = self.attempts[-3:]
            if not recent:
                continue
            key, refs = self._draw.choice(recent)
            ref = self._draw.choice(refs)
            view = self._bench.memory.begin_write(ref, key)
            if view is None:
                self.num_refused += 1
                continue
            half = view.nbytes // 2
            for part in (view[:half], view[half:]):
                part[:] = bytes([key.attempt % 251 + 1]) * part.nbytes
            self._bench.memory.end_write(ref, key)
            self.num_written += 1


def test_late_writers_never_reach_the_next_owner() -> None:
    """Blocks are freed and given away while two threads write; the new owner finds zeros or its own bytes."""
    bench = _Bench(num_blocks=6)
    writers = [_LateWriter(bench, seed) for seed in range(2)]
    for writer in writers:
        writer.start()
    bytes_of = bench.pool.data.view(torch.uint8)
    foreign, num_rounds = [], 0
    try:
        for number in range(400):
            key = AttemptKey(RequestId("r"), number)
            try:
                refs = bench.table.allocate(key, 2, BlockState.RECEIVING)
            except NoBlocks:
                continue  # all are held by late writers at this moment
            for ref in refs:
                bench.pool.zero(ref.block_id)
            for writer in writers:
                writer.attempts.append((key, refs))
            threading.Event().wait(0.0005)
            for ref in refs:
                values = set(bytes_of[ref.block_id].reshape(-1).tolist())
                if not values <= {0, number % 251 + 1}:
                    foreign.append((number, values))
            bench.table.release_all(key)
            num_rounds += 1
    finally:
        for writer in writers:
            writer.stopping.set()
            writer.join(10.0)
    assert foreign == []
    assert num_rounds > 100
    assert sum(writer.num_written for writer in writers) > 100  # else nothing was tried
    assert sum(writer.num_refused for writer in writers) > 100
    bench.table.check_integrity()
    assert bench.table.num_free == 6
