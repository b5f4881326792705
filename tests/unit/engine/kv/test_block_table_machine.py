"""The block table survives the adversary on pools of 1, 2 and 8 blocks, and every planted defect is found."""

from collections.abc import Callable, Iterable, Sequence

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tandem.core.blocks import AttemptKey, BlockRef
from tandem.engine.kv.block_table import BlockState, BlockTable, IntegrityError
from tests.unit.engine.kv.block_table_machine import BlockTableMachine

RUN = settings(max_examples=120, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
HUNT = settings(
    RUN, max_examples=600, phases=(Phase.generate,), derandomize=True, database=None, report_multiple_bugs=False
)


class NoGenerationBump(BlockTable):
    """Mutant: a block's next use has the name of its last."""

    def _take(
        self, key: AttemptKey, num_blocks: int, state: BlockState, take: Callable[[int], list[int]]
    ) -> tuple[BlockRef, ...]:
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
        return [ref.block_id for ref in refs]


class NoOwnerCheck(BlockTable):
    """Mutant: a hand-over thread may hold a block in any state."""

    def _pin(self, ref: BlockRef, key: AttemptKey, state: BlockState) -> bool:
        return super()._pin(ref, key, self._state[ref.block_id])


def machine(table: type[BlockTable], size: int) -> type[BlockTableMachine]:
    return type(f"{table.__name__}{size}", (BlockTableMachine,), {"make_table": table, "num_blocks": size})


@pytest.mark.parametrize("size", [1, 2, 8])
def test_table_survives(size: int) -> None:
    run_state_machine_as_test(machine(BlockTable, size), settings=RUN)


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("mutant", [NoGenerationBump, FreeWhilePinned, UncheckedRelease, NoOwnerCheck])
def test_mutant_is_found(mutant: type[BlockTable], size: int) -> None:
    with pytest.raises((AssertionError, IntegrityError, ValueError, KeyError)):
        run_state_machine_as_test(machine(mutant, size), settings=HUNT)
