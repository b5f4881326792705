"""The block table survives the adversary on pools of 1, 2 and 8 blocks, and every planted defect is found."""

from collections.abc import Callable, Iterable, Sequence

import pytest

from tandem.core.blocks import AttemptKey, BlockRef
from tandem.engine.kv.block_table import BlockState, BlockTable, IntegrityError
from tests.stateful.block_table_machine import BlockTableMachine
from tests.stateful.running import Violation, hunt, walk

Take = Callable[[int], list[int]]


class NoGenerationBump(BlockTable):
    """Mutant: a block's next use has the name of its last."""

    def _take(self, key: AttemptKey, num_blocks: int, state: BlockState, take: Take) -> tuple[BlockRef, ...]:
        refs = super()._take(key, num_blocks, state, take)
        for ref in refs:
            self._generation[ref.block_id] = 7
        return tuple(BlockRef(ref.block_id, 7) for ref in refs)


class FreeWhilePinned(BlockTable):
    """Mutant: a released block is free at once, whoever still copies it."""

    def _disown(self, key: AttemptKey, block_id: int) -> None:
        pins, self._pins[block_id] = self._pins[block_id], 0
        super()._disown(key, block_id)
        self._pins[block_id] = pins


class UncheckedRelease(BlockTable):
    """Mutant: a second release of the same reference goes through."""

    def _checked(self, key: AttemptKey, refs: Iterable[BlockRef]) -> Sequence[int]:
        refs = list(refs)
        super()._checked(key, [ref for ref in refs if self._state[ref.block_id] is BlockState.CACHED])
        return [ref.block_id for ref in refs]


class AnyStateCanBeHeld(BlockTable):
    """Mutant: a hand-over thread may hold a block in any state."""

    def _pin(self, ref: BlockRef, key: AttemptKey, state: BlockState) -> bool:
        return super()._pin(ref, key, self._state[ref.block_id])


class AnyOwnerCanHold(BlockTable):
    """Mutant: a hand-over thread is asked for the block, not for whose it is now."""

    def _pin(self, ref: BlockRef, key: AttemptKey, state: BlockState) -> bool:
        block_id = ref.block_id
        present = BlockRef(block_id, self._generation[block_id])
        return super()._pin(present, self._owner[block_id] or key, state)


class CommitUnderAWriter(BlockTable):
    """Mutant: a commit does not ask whether somebody still writes."""

    def commit(self, key: AttemptKey) -> None:
        pins, self._pins = self._pins, [0] * self.num_blocks
        try:
            super().commit(key)
        finally:
            self._pins = pins


class CommitOfAnything(BlockTable):
    """Mutant: what was never received is committed as well."""

    def commit(self, key: AttemptKey) -> None:
        for block_id in self._owned.get(key, ()):
            self._set_state(block_id, BlockState.COMMITTED)


class LateUnpinCounts(BlockTable):
    """Mutant: who lets go of a released block is told that all is well."""

    def _unpin(self, ref: BlockRef, state: BlockState) -> bool:
        super()._unpin(ref, state)
        return True


class LastUnpinForgotten(BlockTable):
    """Mutant (vLLM #29987): a block released while it was pinned never becomes free."""

    def _unpin(self, ref: BlockRef, state: BlockState) -> bool:
        block_id = ref.block_id
        if self._state[block_id] is BlockState.RELEASED and self._pins[block_id] == 1:
            self._pins[block_id] = 0
            return False
        return super()._unpin(ref, state)


class ReferencesIgnored(BlockTable):
    """Mutant: the first child that ends frees what its siblings read."""

    def release(self, key: AttemptKey, refs: Iterable[BlockRef]) -> tuple[BlockRef, ...]:
        refs = list(refs)
        for ref in refs:
            if self._generation[ref.block_id] == ref.generation and self._owner[ref.block_id] == key:
                self._references[ref.block_id] = 1
        return super().release(key, refs)


class EvictedUnderReaders(BlockTable):
    """Mutant: a cached block goes although somebody reads it."""

    def evict(self, refs: Iterable[BlockRef]) -> None:
        refs = list(refs)
        references, kept = self._references, self._kept
        self._references, self._kept = [0] * self.num_blocks, set()
        try:
            super().evict(refs)
        finally:
            self._references, self._kept = references, kept


class CachedBeforeComplete(BlockTable):
    """Mutant: a block that is still being received is lent to others."""

    def cache(self, key: AttemptKey, refs: Iterable[BlockRef]) -> None:
        refs = list(refs)
        for ref in self._checked(key, refs):
            if self._state[ref] is BlockState.RECEIVING:
                self._set_state(ref, BlockState.COMMITTED)
        super().cache(key, refs)


class PinOfAnybodysCached(BlockTable):
    """Mutant: a sender may copy a cached block out that its attempt does not read (any more)."""

    def _pin(self, ref: BlockRef, key: AttemptKey, state: BlockState) -> bool:
        if state is BlockState.SEALED and self._state[ref.block_id] is BlockState.CACHED:
            self._pins[ref.block_id] += 1
            self._judge(ref.block_id)
            return self._generation[ref.block_id] == ref.generation
        return super()._pin(ref, key, state)


class IdleWhilePinned(BlockTable):
    """Mutant: a cached block counts as one that can be had while a sender copies it."""

    def _judge(self, block_id: int) -> None:
        pins, self._pins[block_id] = self._pins[block_id], 0
        super()._judge(block_id)
        self._pins[block_id] = pins


class LentByName(BlockTable):
    """Mutant: whoever names a block that was cached once gets what lies there now."""

    def borrow(self, key: AttemptKey, refs: Iterable[BlockRef]) -> tuple[BlockRef, ...]:
        return super().borrow(key, self._refs(ref.block_id for ref in refs))


def machine(table: type[BlockTable], size: int) -> type[BlockTableMachine]:
    return type(f"{table.__name__}{size}", (BlockTableMachine,), {"make_table": table, "num_blocks": size})


@pytest.mark.parametrize("size", [1, 2, 8])
def test_table_survives(size: int) -> None:
    walk(machine(BlockTable, size), num_examples=100)


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize(
    ("mutant", "problem"),
    [
        (NoGenerationBump, "another use|not there to be read|does not wait for it|shared|refused|lent what"),
        (FreeWhilePinned, "FREE\\) has \\d pins|free blocks is wrong|given more"),
        (UncheckedRelease, "another use|references|KV block table"),
        (AnyStateCanBeHeld, "not complete|not there to be read|does not wait for it"),
        (AnyOwnerCanHold, "not there to be read|does not wait for it"),
        (CommitUnderAWriter, "under a writer"),
        (CommitOfAnything, "under a writer"),
        (LateUnpinCounts, "was told wrong"),
        (LastUnpinForgotten, "free blocks is wrong|waits for an unpin"),
        (ReferencesIgnored, "references are miscounted|a live reference was refused|free blocks is wrong|wrong"),
        (EvictedUnderReaders, "evicted what somebody needs|KV block table"),
        (CachedBeforeComplete, "not complete"),
        (PinOfAnybodysCached, "not there to be read|has \\d pins|blocks to be had"),
        (IdleWhilePinned, "to be had is wrong|is idle and not known"),
        (LentByName, "lent what is not cached"),
    ],
)
def test_mutant_is_found(mutant: type[BlockTable], problem: str, size: int) -> None:
    hunt(machine(mutant, size), problem, errors=(Violation, IntegrityError))
