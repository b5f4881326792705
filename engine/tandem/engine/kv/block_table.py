"""Who owns which block of the KV pool. Pure bookkeeping: it never touches a byte of KV, a clock or a socket.

It is the one object that the engine thread shares with the hand-over threads; every method takes its one lock.

States of a block, and who may do what in each::

    FREE ──allocate──► FILLING    computed here for another worker      ──seal──►   SEALED  may be pinned and read
      ▲      (gen+1)   RECEIVING  a peer's bytes are written under a pin ──commit──► COMMITTED  decoding uses it
      │                COMMITTED  computed and decoded here, never pinned
      └── last reference released; while pinned the block waits in RELEASED and is free at the last unpin

A reference (block id, generation) is good for one use of the block: every allocation adds 1 to the generation, so late
traffic can be told from present traffic and blocks can be freed at once (rules R2, R3, R5 of the hand-over design).
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial

from tandem.core import reasons
from tandem.core.blocks import AttemptKey, BlockRef
from tandem.core.errors import InternalError, Overloaded
from tandem.core.event_log import EventSink
from tandem.core.event_log.events import (
    AllocatedState,
    BlockPinned,
    BlocksAllocated,
    BlocksCommitted,
    BlocksFreed,
    BlocksRekeyed,
    BlocksSealed,
    BlockUnpinned,
    PinPurpose,
)
from tandem.engine.kv.free_runs import FreeRuns

_GENERATION_MASK = 0xFFFF_FFFF


class BlockState(Enum):
    """What a block is used for; the value is its letter in pictures of the table."""

    FREE = "."
    FILLING = "f"
    SEALED = "S"
    RECEIVING = "r"
    COMMITTED = "C"
    RELEASED = "x"  # nobody owns it any more, but a hand-over thread is still at it


_LOGGED_STATES: dict[BlockState, AllocatedState] = {
    BlockState.FILLING: "filling",
    BlockState.RECEIVING: "receiving",
    BlockState.COMMITTED: "committed",
}


class Placement(Enum):
    """Where new blocks lie; see ``free_runs``."""

    PACKED = "packed"
    WITH_ROOM = "with room"


class NoBlocks(Overloaded):
    """Not enough free blocks at present."""

    reason = reasons.NO_BLOCKS


class IntegrityError(InternalError):
    """The books do not balance: a defect, never a matter of load. The message shows the table."""

    reason = "KV_TABLE_INTEGRITY"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockCounts:
    """Blocks per state; they add up to ``total``."""

    total: int
    free: int
    filling: int
    sealed: int
    receiving: int
    committed: int
    released: int


class BlockTable:
    """Ownership, reference counts, pins and generations of ``num_blocks`` blocks. Thread-safe.

    ``events`` (if any) is told of every change, inside the lock: its order is the order of what happened.
    """

    def __init__(self, num_blocks: int, *, events: EventSink | None = None) -> None:
        if num_blocks < 1:
            raise ValueError(f"a pool needs at least 1 block, not {num_blocks}")
        self.num_blocks = num_blocks
        self.events = events
        self._freed: list[BlockRef] = []  # by the call that runs now, kept only for ``events``
        self._lock = threading.Lock()
        self._runs = FreeRuns(num_blocks)
        self._generation = [0] * num_blocks
        self._state = [BlockState.FREE] * num_blocks
        self._owner: list[AttemptKey | None] = [None] * num_blocks
        self._references = [0] * num_blocks
        self._pins = [0] * num_blocks
        self._owned: dict[AttemptKey, set[int]] = {}
        self._num_in_state = Counter({BlockState.FREE: num_blocks})

    # --- engine side -------------------------------------------------------------------------------------------------

    def allocate(
        self, key: AttemptKey, num_blocks: int, state: BlockState, placement: Placement = Placement.WITH_ROOM
    ) -> tuple[BlockRef, ...]:
        """Give ``key`` all of ``num_blocks`` blocks in ``state``, one reference each, or raise NoBlocks.

        Each has a new generation. The caller clears the bytes before it tells anybody of the blocks.
        """
        packed = placement is Placement.PACKED
        return self._take(key, num_blocks, state, self._runs.take_packed if packed else self._runs.take_with_room)

    def grow(self, key: AttemptKey, num_blocks: int, state: BlockState, after: BlockRef) -> tuple[BlockRef, ...]:
        """Like ``allocate``, with ids that follow ``after`` where they are free."""
        return self._take(key, num_blocks, state, partial(self._runs.take_after, after.block_id))

    def share(self, key: AttemptKey, refs: Iterable[BlockRef]) -> None:
        """Add one reference to each of ``key``'s blocks: another child of the attempt reads them too."""
        with self._lock:
            for block_id in self._checked(key, refs):
                self._references[block_id] += 1

    def release(self, key: AttemptKey, refs: Iterable[BlockRef]) -> None:
        """Drop one reference to each block; without references a block is free (at once, or at its last unpin)."""
        with self._lock:
            for block_id in self._checked(key, refs):
                self._references[block_id] -= 1
                if self._references[block_id] == 0:
                    self._disown(key, block_id)
            self._tell_freed()

    def release_all(self, key: AttemptKey) -> int:
        """Drop every reference ``key`` holds; return how many blocks it had. Unknown keys hold none."""
        with self._lock:
            block_ids = sorted(self._owned.get(key, ()))
            for block_id in block_ids:
                self._references[block_id] = 0
                self._disown(key, block_id)
            self._tell_freed()
            return len(block_ids)

    def rekey(self, old: AttemptKey, new: AttemptKey) -> int:
        """Make ``new`` the owner of all that ``old`` holds; return how many blocks that are.

        Nothing is copied, and references, states and generations stay: whoever pins one of them for ``old`` may go on
        until it lets go, but can pin no other. Raises IntegrityError if ``new`` holds blocks already.
        """
        with self._lock:
            if new in self._owned:
                raise self._broken(f"{new} holds blocks and can't take over those of {old}")
            block_ids = self._owned.pop(old, None)
            if block_ids is None:
                return 0
            for block_id in block_ids:
                self._owner[block_id] = new
            self._owned[new] = block_ids
            if self.events is not None:
                refs = self._refs(sorted(block_ids))
                self.events.record(
                    BlocksRekeyed(request=new.request_id, from_attempt=old.attempt, attempt=new.attempt, blocks=refs)
                )
            return len(block_ids)

    def seal(self, key: AttemptKey, refs: Iterable[BlockRef]) -> None:
        """FILLING → SEALED: the blocks' KV is complete and may be copied out."""
        with self._lock:
            block_ids = self._checked(key, refs)
            for block_id in block_ids:
                if self._state[block_id] is not BlockState.FILLING:
                    raise self._broken(f"block {block_id} is {self._state[block_id].name}, only FILLING can be sealed")
                self._set_state(block_id, BlockState.SEALED)
            if self.events is not None:
                self.events.record(BlocksSealed(blocks=self._refs(block_ids)))

    def commit(self, key: AttemptKey) -> None:
        """RECEIVING → COMMITTED for all blocks of ``key``: their KV is complete and verified.

        Raises IntegrityError if a writer still holds one of them: it could write over what decoding writes next.
        """
        with self._lock:
            block_ids = self._owned.get(key, set())
            if any(self._state[block_id] is not BlockState.RECEIVING for block_id in block_ids):
                raise self._broken(f"{key} has blocks to commit that were not received")
            pinned = [block_id for block_id in block_ids if self._pins[block_id]]
            if pinned:
                raise self._broken(f"blocks {pinned} of {key} are committed while a writer holds them")
            for block_id in block_ids:
                self._set_state(block_id, BlockState.COMMITTED)
            if self.events is not None:
                refs = self._refs(sorted(block_ids))
                self.events.record(BlocksCommitted(request=key.request_id, attempt=key.attempt, blocks=refs))

    # --- hand-over side ----------------------------------------------------------------------------------------------

    def pin(self, ref: BlockRef, key: AttemptKey) -> bool:
        """Hold a SEALED block of ``key`` for a copy out. False: it is no longer that block, do not read it."""
        return self._pin(ref, key, BlockState.SEALED)

    def unpin(self, ref: BlockRef) -> bool:
        """Let go. False: the block was released meanwhile, so what was copied must not count."""
        return self._unpin(ref, BlockState.SEALED)

    def begin_write(self, ref: BlockRef, key: AttemptKey) -> bool:
        """Hold a RECEIVING block of ``key`` for a copy in. False: it is no longer that block, do not write to it."""
        return self._pin(ref, key, BlockState.RECEIVING)

    def end_write(self, ref: BlockRef) -> bool:
        """Let go. False: the block was released meanwhile, so the write must not count."""
        return self._unpin(ref, BlockState.RECEIVING)

    # --- looking -----------------------------------------------------------------------------------------------------

    @property
    def num_free(self) -> int:
        """Blocks that can be allocated now."""
        with self._lock:
            return len(self._runs)

    def counts(self) -> BlockCounts:
        """Blocks per state at this moment."""
        with self._lock:
            num = self._num_in_state
            return BlockCounts(
                total=self.num_blocks,
                free=num[BlockState.FREE],
                filling=num[BlockState.FILLING],
                sealed=num[BlockState.SEALED],
                receiving=num[BlockState.RECEIVING],
                committed=num[BlockState.COMMITTED],
                released=num[BlockState.RELEASED],
            )

    def num_references(self, ref: BlockRef) -> int:
        """References to the block, 0 if ``ref`` is of an earlier use."""
        with self._lock:
            return self._references[ref.block_id] if self._generation[ref.block_id] == ref.generation else 0

    def check_integrity(self) -> None:
        """Raise IntegrityError unless allocated = owned + free + receiving + released and every count fits."""
        with self._lock:
            owners = {block_id: key for key, block_ids in self._owned.items() for block_id in block_ids}
            if len(owners) != sum(map(len, self._owned.values())):
                raise self._broken("a block has two owners")
            if self._num_in_state != Counter(self._state):  # Counter equality ignores zero counts
                raise self._broken(f"state counts {self._num_in_state} do not fit the states")
            if len(self._runs) != self._num_in_state[BlockState.FREE]:
                raise self._broken(f"{len(self._runs)} blocks in free runs, not the {self._num_in_state}")
            for block_id, state in enumerate(self._state):
                problem = self._problem(block_id, state, owners.get(block_id))
                if problem:
                    raise self._broken(f"block {block_id} ({state.name}) {problem}")

    # --- inside the lock ---------------------------------------------------------------------------------------------

    def _take(
        self, key: AttemptKey, num_blocks: int, state: BlockState, take: Callable[[int], list[int]]
    ) -> tuple[BlockRef, ...]:
        with self._lock:
            if num_blocks > len(self._runs):
                raise NoBlocks(f"{num_blocks} KV blocks are needed and {len(self._runs)} of {self.num_blocks} are free")
            if num_blocks == 0:
                return ()
            block_ids = take(num_blocks)
            for block_id in block_ids:
                self._generation[block_id] = (self._generation[block_id] + 1) & _GENERATION_MASK
                self._owner[block_id] = key
                self._references[block_id] = 1
                self._set_state(block_id, state)
            self._owned.setdefault(key, set()).update(block_ids)
            refs = self._refs(block_ids)
            if self.events is not None:
                logged = _LOGGED_STATES[state]
                self.events.record(
                    BlocksAllocated(request=key.request_id, attempt=key.attempt, state=logged, blocks=refs)
                )
            return refs

    def _refs(self, block_ids: Iterable[int]) -> tuple[BlockRef, ...]:
        return tuple(BlockRef(block_id, self._generation[block_id]) for block_id in block_ids)

    def _checked(self, key: AttemptKey, refs: Iterable[BlockRef]) -> Sequence[int]:
        """Return the ids of ``refs``, or raise before anything has changed."""
        block_ids = []
        for ref in refs:
            if self._generation[ref.block_id] != ref.generation or self._owner[ref.block_id] != key:
                raise self._broken(f"{ref} is not held by {key}")
            block_ids.append(ref.block_id)
        twice = [b for b, count in Counter(block_ids).items() if count > self._references[b]]
        if twice:
            raise self._broken(f"blocks {twice} are named more often than {key} holds them")
        return block_ids

    def _disown(self, key: AttemptKey, block_id: int) -> None:
        owned = self._owned[key]
        owned.remove(block_id)
        if not owned:
            del self._owned[key]
        self._owner[block_id] = None
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

    def _pin(self, ref: BlockRef, key: AttemptKey, state: BlockState) -> bool:
        with self._lock:
            block_id = ref.block_id
            if not 0 <= block_id < self.num_blocks:  # it may come from a peer
                return False
            fits = (
                self._generation[block_id] == ref.generation
                and self._owner[block_id] == key
                and self._state[block_id] is state
            )
            if fits:
                self._pins[block_id] += 1
                if self.events is not None:
                    purpose: PinPurpose = "read" if state is BlockState.SEALED else "write"
                    self.events.record(
                        BlockPinned(request=key.request_id, attempt=key.attempt, block=ref, purpose=purpose)
                    )
            return fits

    def _unpin(self, ref: BlockRef, state: BlockState) -> bool:
        with self._lock:
            block_id = ref.block_id
            if self._generation[block_id] != ref.generation or self._pins[block_id] == 0:
                raise self._broken(f"{ref} is let go but was not held")
            self._pins[block_id] -= 1
            if self.events is not None:
                self.events.record(BlockUnpinned(block=ref))
            if self._state[block_id] is BlockState.RELEASED and self._pins[block_id] == 0:
                self._free(block_id)
                self._tell_freed()
                return False
            return self._state[block_id] is state

    def _set_state(self, block_id: int, state: BlockState) -> None:
        self._num_in_state[self._state[block_id]] -= 1
        self._num_in_state[state] += 1
        self._state[block_id] = state

    def _problem(self, block_id: int, state: BlockState, owner: AttemptKey | None) -> str:
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

    def _broken(self, problem: str) -> IntegrityError:
        letters = "".join(state.value for state in self._state)
        rows = "\n".join(f"  {start:6d} {letters[start : start + 64]}" for start in range(0, len(letters), 64))
        pins = {block_id: count for block_id, count in enumerate(self._pins) if count}
        return IntegrityError(f"KV block table: {problem}\n{rows}\n  pins: {pins}")
