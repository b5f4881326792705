"""The books of a block table: what is entered for each block, and whether the entries fit. Pure: no lock, no verbs."""

from collections import Counter
from collections.abc import Iterable

from tandem.core.blocks import AttemptKey, BlockRef
from tandem.core.event_log import EventSink
from tandem.core.event_log.events import BlocksFreed
from tandem.engine.kv.block_state import BlockCounts, BlockState, IntegrityError
from tandem.engine.kv.borrowers import Borrowers
from tandem.engine.kv.free_runs import FreeRuns


class BlockBooks:
    """One entry of each kind per block. Whoever calls has the table's lock."""

    def __init__(self, num_blocks: int, *, events: EventSink | None = None) -> None:
        if num_blocks < 1:
            raise ValueError(f"a pool needs at least 1 block, not {num_blocks}")
        self.num_blocks = num_blocks
        self.events = events
        self._freed: list[BlockRef] = []  # by the call that runs now, kept only for ``events``
        self._runs = FreeRuns(num_blocks)
        self._generation = [0] * num_blocks
        self._state = [BlockState.FREE] * num_blocks
        self._owner: list[AttemptKey | None] = [None] * num_blocks
        self._references = [0] * num_blocks
        self._pins = [0] * num_blocks
        self._owned: dict[AttemptKey, set[int]] = {}
        self._num_in_state = Counter({BlockState.FREE: num_blocks})
        self._borrowers = Borrowers()
        self._kept: set[int] = set()  # cached blocks that must stay although nobody reads them
        self._idle: set[int] = set()  # cached blocks that may go: not read, not kept, not pinned

    def _refs(self, block_ids: Iterable[int]) -> tuple[BlockRef, ...]:
        return tuple(BlockRef(block_id, self._generation[block_id]) for block_id in block_ids)

    def _held(self, key: AttemptKey, block_id: int) -> int:
        is_cached = self._state[block_id] is BlockState.CACHED
        return self._borrowers.count(key, block_id) if is_cached else self._references[block_id]

    def _judge(self, block_id: int) -> None:
        """Enter whether a cached block may go."""
        if self._references[block_id] or self._pins[block_id] or block_id in self._kept:
            self._idle.discard(block_id)
        else:
            self._idle.add(block_id)

    def _disown(self, key: AttemptKey, block_id: int) -> None:
        self._forget_owner(key, block_id)
        self._let_go(block_id)

    def _forget_owner(self, key: AttemptKey, block_id: int) -> None:
        owned = self._owned[key]
        owned.remove(block_id)
        if not owned:
            del self._owned[key]
        self._owner[block_id] = None

    def _let_go(self, block_id: int) -> None:
        if self._pins[block_id]:
            self._set_state(block_id, BlockState.RELEASED)
        else:
            self._free(block_id)

    def _free(self, block_id: int) -> None:
        self._set_state(block_id, BlockState.FREE)
        self._runs.put((block_id,))
        if self.events is not None:
            self._freed.append(BlockRef(block_id, self._generation[block_id]))

    def _tell_freed(self) -> None:
        if self.events is not None and self._freed:
            self.events.record(BlocksFreed(blocks=tuple(self._freed)))
            self._freed.clear()

    def _counts(self) -> BlockCounts:
        num = self._num_in_state
        return BlockCounts(
            total=self.num_blocks,
            free=num[BlockState.FREE],
            filling=num[BlockState.FILLING],
            sealed=num[BlockState.SEALED],
            receiving=num[BlockState.RECEIVING],
            committed=num[BlockState.COMMITTED],
            released=num[BlockState.RELEASED],
            cached=num[BlockState.CACHED],
            idle=len(self._idle),
            kept=len(self._kept),
        )

    def _check(self) -> None:
        owners = {block_id: key for key, block_ids in self._owned.items() for block_id in block_ids}
        if len(owners) != sum(map(len, self._owned.values())):
            raise self._broken("a block has two owners")
        if self._num_in_state != Counter(self._state):  # Counter equality ignores zero counts
            raise self._broken(f"state counts {self._num_in_state} do not fit the states")
        if len(self._runs) != self._num_in_state[BlockState.FREE]:
            raise self._broken(f"{len(self._runs)} blocks in free runs, not the {self._num_in_state}")
        borrowed = self._borrowers.totals()
        for block_id, state in enumerate(self._state):
            problem = self._problem(block_id, state, owners.get(block_id))
            if state is BlockState.CACHED or block_id in borrowed or block_id in self._idle | self._kept:
                problem = problem or self._problem_of_cached(block_id, state, borrowed[block_id])
            if problem:
                raise self._broken(f"block {block_id} ({state.name}) {problem}")

    def _set_state(self, block_id: int, state: BlockState) -> None:
        self._num_in_state[self._state[block_id]] -= 1
        self._num_in_state[state] += 1
        self._state[block_id] = state

    def _problem(self, block_id: int, state: BlockState, owner: AttemptKey | None) -> str:
        if state is BlockState.CACHED:
            return "" if owner is None and self._owner[block_id] is None else "is cached and has an owner"
        is_owned = state not in (BlockState.FREE, BlockState.RELEASED)
        if is_owned != (owner is not None) or self._owner[block_id] != owner:
            return f"has the owner {owner} in the books and {self._owner[block_id]} on the block"
        if is_owned != (self._references[block_id] > 0):
            return f"has {self._references[block_id]} references"
        if (state is BlockState.FREE) != (block_id in self._runs):
            return "is in the free runs and not free, or the other way round"
        if self._pins[block_id] < 0 or (self._pins[block_id] and state is BlockState.FREE):
            return f"has {self._pins[block_id]} pins"
        if state is BlockState.RELEASED and not self._pins[block_id]:
            return "waits for an unpin that can't come"
        return ""

    def _problem_of_cached(self, block_id: int, state: BlockState, num_borrowed: int) -> str:
        if state is not BlockState.CACHED:
            return "is borrowed, kept or idle, and not cached"
        if num_borrowed != self._references[block_id]:
            return f"has {self._references[block_id]} references and {num_borrowed} with its borrowers"
        if self._pins[block_id] < 0 or block_id in self._runs:
            return f"has {self._pins[block_id]} pins or is in the free runs"
        is_idle = not (num_borrowed or self._pins[block_id] or block_id in self._kept)
        return "" if is_idle == (block_id in self._idle) else "is idle and not known as such, or the other way round"

    def _broken(self, problem: str) -> IntegrityError:
        letters = "".join(state.value for state in self._state)
        rows = "\n".join(f"  {start:6d} {letters[start : start + 64]}" for start in range(0, len(letters), 64))
        pins = {block_id: count for block_id, count in enumerate(self._pins) if count}
        return IntegrityError(f"KV block table: {problem}\n{rows}\n  pins: {pins}")
