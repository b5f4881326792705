"""Who owns which block of the KV pool. Pure bookkeeping: it never touches a byte of KV, a clock or a socket.

It is the one object that the engine thread shares with the hand-over threads; every method takes its one lock.

States of a block, and who may do what in each::

    FREE ──allocate──► FILLING    computed here for another worker      ──seal──►   SEALED  may be pinned and read
      ▲      (gen+1)   RECEIVING  a peer's bytes are written under a pin ──commit──► COMMITTED  decoding uses it
      │                COMMITTED  computed and decoded here, never pinned
      └── last reference released; while pinned the block waits in RELEASED and is free at the last unpin

    FILLING, SEALED, COMMITTED ──cache──► CACHED  full and checked: the cache's, read by any number of attempts,
                                          never written again; ──evict──► FREE when nobody reads it

A reference (block id, generation) is good for one use of the block: every allocation adds 1 to the generation, so late
traffic can be told from present traffic and blocks can be freed at once (rules R2, R3, R5 of the hand-over design).
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from tandem.core.blocks import AttemptKey, BlockRef
from tandem.core.event_log import EventSink
from tandem.core.event_log.events import (
    AllocatedState,
    BlockPinned,
    BlocksAllocated,
    BlocksBorrowed,
    BlocksCached,
    BlocksCommitted,
    BlocksRekeyed,
    BlocksReturned,
    BlocksSealed,
    BlockUnpinned,
    PinPurpose,
)
from tandem.engine.kv.block_books import BlockBooks
from tandem.engine.kv.block_state import BlockCounts, BlockState, IntegrityError, NoBlocks, Placement

__all__ = ["BlockCounts", "BlockState", "BlockTable", "IntegrityError", "NoBlocks", "Placement"]
_GENERATION_MASK = 0xFFFF_FFFF


_LOGGED_STATES: dict[BlockState, AllocatedState] = {
    BlockState.FILLING: "filling",
    BlockState.RECEIVING: "receiving",
    BlockState.COMMITTED: "committed",
}

_COMPLETE = frozenset({BlockState.FILLING, BlockState.SEALED, BlockState.COMMITTED})


class BlockTable(BlockBooks):
    """Ownership, reference counts, pins and generations of ``num_blocks`` blocks. Thread-safe.

    ``events`` (if any) is told of every change, inside the lock: its order is the order of what happened.
    """

    def __init__(self, num_blocks: int, *, events: EventSink | None = None) -> None:
        super().__init__(num_blocks, events=events)
        self._lock = threading.Lock()

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
                if self._state[block_id] is BlockState.CACHED:
                    self._borrowers.add(key, block_id)

    def release(self, key: AttemptKey, refs: Iterable[BlockRef]) -> tuple[BlockRef, ...]:
        """Drop one reference to each block; without references a block is free (at once, or at its last unpin).

        A cached block stays. Return those that ``key`` reads no more.
        """
        with self._lock:
            returned = []
            for block_id in self._checked(key, refs):
                self._references[block_id] -= 1
                if self._state[block_id] is BlockState.CACHED:
                    if self._borrowers.drop(key, block_id):
                        returned.append(block_id)
                    self._judge(block_id)
                elif self._references[block_id] == 0:
                    self._disown(key, block_id)
            self._tell_freed()
            return self._told_returned(key, returned)

    def release_all(self, key: AttemptKey) -> int:
        """Drop every reference ``key`` holds; return how many blocks it had. Unknown keys hold none."""
        with self._lock:
            block_ids = sorted(self._owned.get(key, ()))
            for block_id in block_ids:
                self._references[block_id] = 0
                self._disown(key, block_id)
            self._tell_freed()
            borrowed = self._borrowers.drop_all(key)
            for block_id, count in borrowed.items():
                self._references[block_id] -= count
                self._judge(block_id)
            self._told_returned(key, borrowed)
            return len(block_ids) + len(borrowed)

    def rekey(self, old: AttemptKey, new: AttemptKey) -> int:
        """Make ``new`` the owner of all that ``old`` holds; return how many blocks that are.

        Nothing is copied, and references, states and generations stay: whoever pins one of them for ``old`` may go on
        until it lets go, but can pin no other. Raises IntegrityError if ``new`` holds blocks already.
        """
        with self._lock:
            if new in self._owned or new in self._borrowers:
                raise self._broken(f"{new} holds blocks and can't take over those of {old}")
            block_ids = self._owned.pop(old, set())
            for block_id in block_ids:
                self._owner[block_id] = new
            if block_ids:
                self._owned[new] = block_ids
            block_ids = block_ids.union(self._borrowers.move(old, new))
            if self.events is not None and block_ids:
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

    # --- cached blocks: engine side ----------------------------------------------------------------------------------

    def cache(self, key: AttemptKey, refs: Iterable[BlockRef]) -> None:
        """Make full, checked blocks of ``key`` the cache's; ``key`` goes on reading them as their first borrower."""
        with self._lock:
            block_ids = self._checked(key, refs)
            for block_id in block_ids:
                if self._state[block_id] not in _COMPLETE:
                    raise self._broken(f"block {block_id} is {self._state[block_id].name} and can't be cached")
            for block_id in block_ids:
                self._forget_owner(key, block_id)
                self._borrowers.add(key, block_id, self._references[block_id])
                self._set_state(block_id, BlockState.CACHED)
            if self.events is not None and block_ids:
                refs = self._refs(block_ids)
                self.events.record(BlocksCached(request=key.request_id, attempt=key.attempt, blocks=refs))

    def borrow(self, key: AttemptKey, refs: Iterable[BlockRef]) -> tuple[BlockRef, ...]:
        """Add one reference of ``key`` to each of these cached blocks; return those that it did not read before."""
        with self._lock:
            block_ids = self._cached(refs)
            borrowed = self._refs(b for b in block_ids if not self._borrowers.count(key, b))
            for block_id in block_ids:
                self._references[block_id] += 1
                self._borrowers.add(key, block_id)
                self._judge(block_id)
            if self.events is not None and borrowed:
                self.events.record(BlocksBorrowed(request=key.request_id, attempt=key.attempt, blocks=borrowed))
            return borrowed

    def borrowed(self, key: AttemptKey) -> tuple[BlockRef, ...]:
        """Return the cached blocks that ``key`` reads, first borrowed first."""
        with self._lock:
            return self._refs(self._borrowers.blocks_of(key))

    def keep(self, refs: Iterable[BlockRef]) -> None:
        """Let cached blocks stay although nobody reads them, until ``unkeep``."""
        with self._lock:
            for block_id in self._cached(refs):
                self._kept.add(block_id)
                self._judge(block_id)

    def unkeep(self, refs: Iterable[BlockRef]) -> None:
        """Let kept blocks go like others."""
        with self._lock:
            for block_id in self._cached(refs):
                self._kept.discard(block_id)
                self._judge(block_id)

    def evict(self, refs: Iterable[BlockRef]) -> None:
        """CACHED → FREE (at its last unpin, if a sender still copies it). Raises IntegrityError while it is in use."""
        with self._lock:
            block_ids = self._cached(refs)
            used = [b for b in block_ids if self._references[b] or b in self._kept]
            if used:
                raise self._broken(f"cached blocks {used} are evicted while somebody reads or keeps them")
            for block_id in block_ids:
                self._idle.discard(block_id)
                self._let_go(block_id)
            self._tell_freed()

    # --- hand-over side ----------------------------------------------------------------------------------------------

    def pin(self, ref: BlockRef, key: AttemptKey) -> bool:
        """Hold a SEALED block of ``key``, or a cached one that it borrows, for a copy out.

        False: it is no longer that block, do not read it.
        """
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

    @property
    def num_available(self) -> int:
        """Blocks that can be allocated now or after an eviction. Only the engine thread's own calls make it smaller."""
        with self._lock:
            return len(self._runs) + len(self._idle)

    @property
    def num_kept_idle(self) -> int:
        """Cached blocks that could be had if they were not kept."""
        with self._lock:
            return sum(not (self._references[block_id] or self._pins[block_id]) for block_id in self._kept)

    @property
    def num_readers(self) -> int:
        """Attempts that read cached blocks."""
        with self._lock:
            return len(self._borrowers)

    def num_idle_of(self, refs: Iterable[BlockRef]) -> int:
        """How many of these cached blocks nobody reads or keeps."""
        with self._lock:
            return sum(ref.block_id in self._idle for ref in refs)

    def counts(self) -> BlockCounts:
        """Blocks per state at this moment."""
        with self._lock:
            return self._counts()

    def num_references(self, ref: BlockRef) -> int:
        """References to the block, 0 if ``ref`` is of an earlier use."""
        with self._lock:
            return self._references[ref.block_id] if self._generation[ref.block_id] == ref.generation else 0

    def check_integrity(self) -> None:
        """Raise IntegrityError unless total = owned + cached + free + released and every count fits."""
        with self._lock:
            self._check()

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

    def _checked(self, key: AttemptKey, refs: Iterable[BlockRef]) -> Sequence[int]:
        """Return the ids of ``refs``, or raise before anything has changed."""
        block_ids = []
        for ref in refs:
            owner = self._owner[ref.block_id]
            is_borrowed = owner is None and self._borrowers.count(key, ref.block_id)
            if self._generation[ref.block_id] != ref.generation or not (owner == key or is_borrowed):
                raise self._broken(f"{ref} is not held by {key}")
            block_ids.append(ref.block_id)
        twice = [b for b, count in Counter(block_ids).items() if count > self._held(key, b)]
        if twice:
            raise self._broken(f"blocks {twice} are named more often than {key} holds them")
        return block_ids

    def _cached(self, refs: Iterable[BlockRef]) -> Sequence[int]:
        """Return the ids of ``refs``, all of them cached blocks, or raise before anything has changed."""
        block_ids = []
        for ref in refs:
            is_cached = self._state[ref.block_id] is BlockState.CACHED
            if self._generation[ref.block_id] != ref.generation or not is_cached:
                raise self._broken(f"{ref} is not cached")
            block_ids.append(ref.block_id)
        return block_ids

    def _told_returned(self, key: AttemptKey, block_ids: Iterable[int]) -> tuple[BlockRef, ...]:
        refs = self._refs(block_ids)
        if self.events is not None and refs:
            self.events.record(BlocksReturned(request=key.request_id, attempt=key.attempt, blocks=refs))
        return refs

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
            if state is BlockState.SEALED and self._state[block_id] is BlockState.CACHED:
                fits = self._generation[block_id] == ref.generation and self._borrowers.count(key, block_id) > 0
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
            if self._state[block_id] is BlockState.CACHED:
                self._judge(block_id)
                return True  # what is cached is never written again: the copy is good, whoever reads it now
            return self._state[block_id] is state
