"""Hypothesis state machine over the production block table: an adversary that keeps every reference for ever.

The model names each use of a block by a serial number of its own, so it can tell two uses apart even when a broken
table gives both the same generation. It also holds the blocks' "bytes": whoever may write leaves its serial there, and
whoever pinned must find them unchanged at the unpin. What is cached keeps its bytes until it is evicted, and is evicted
only while nobody reads or keeps it.
"""

from dataclasses import dataclass, field

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, precondition, rule

from tandem.core.blocks import AttemptKey, BlockRef
from tandem.core.ids import RequestId
from tandem.engine.kv.block_table import BlockState, BlockTable, IntegrityError, NoBlocks
from tests.stateful.running import require

KEYS = tuple(AttemptKey(RequestId(f"r{i}"), 0) for i in range(3))


@dataclass(eq=False)
class Use:
    """One use of one block, as the model sees it."""

    key: AttemptKey
    ref: BlockRef
    serial: int
    state: BlockState
    references: int = 1
    pins: list[int] = field(default_factory=list)  # bytes seen at each pin
    readers: dict[AttemptKey, int] = field(default_factory=dict)  # references to it as a cached block
    content: int | None = None  # its bytes while it is cached
    is_kept: bool = False

    @property
    def is_cached(self) -> bool:
        """Whether it is the cache's."""
        return self.content is not None

    @property
    def is_live(self) -> bool:
        """Whether somebody owns or reads it."""
        return self.references > 0

    @property
    def is_idle(self) -> bool:
        """Whether it is cached and may go."""
        return self.is_cached and not (self.is_live or self.pins or self.is_kept)

    def is_of(self, key: AttemptKey) -> bool:
        """Whether ``key`` owns or reads it."""
        return key in self.readers if self.is_cached else self.is_live and self.key == key


class BlockTableMachine(RuleBasedStateMachine):
    """Subclasses choose the table (a mutant, too) and the pool's size."""

    make_table: type[BlockTable] = BlockTable
    num_blocks = 2
    uses = Bundle("uses")

    def __init__(self) -> None:
        super().__init__()
        self.table = self.make_table(self.num_blocks)
        self.bytes = [0] * self.num_blocks
        self.serial = 0
        self.all_uses: list[Use] = []

    def _free(self) -> int:
        return self.num_blocks - sum(1 for use in self.all_uses if use.is_live or use.pins or use.is_cached)

    def _allocate(self, key: AttemptKey, count: int, state: BlockState) -> list[Use]:
        try:
            refs = self.table.allocate(key, count, state)
        except NoBlocks:
            require(count > self._free(), "refused although there was room")
            return []
        require(count <= self._free(), "given more than there was")
        return [self._made(key, ref, state) for ref in refs]

    def _made(self, key: AttemptKey, ref: BlockRef, state: BlockState) -> Use:
        self.serial += 1
        self.bytes[ref.block_id] = 0  # cleared, as the memory does
        made = Use(key=key, ref=ref, serial=self.serial, state=state)
        self.all_uses.append(made)
        return made

    # --- owner's side ---

    @rule(target=uses, key=st.sampled_from(KEYS), count=st.integers(1, 2))
    def fill_and_seal(self, key: AttemptKey, count: int) -> object:
        """Straight to the stage where senders may pin."""
        made = self._allocate(key, count, BlockState.FILLING)
        for use in made:
            require(not self.table.pin(use.ref, key), "pinned a block that is not complete")
            self.bytes[use.ref.block_id] = use.serial
        self.table.seal(key, [use.ref for use in made])
        for use in made:
            use.state = BlockState.SEALED
        return multiple(*made)

    @rule(target=uses, key=st.sampled_from(KEYS), count=st.integers(1, 2))
    def reserve(self, key: AttemptKey, count: int) -> object:
        """Straight to the stage where receivers may write."""
        return multiple(*self._allocate(key, count, BlockState.RECEIVING))

    @precondition(lambda self: any(use.is_live and not use.is_cached for use in self.all_uses))
    @rule(target=uses, data=st.data())
    def grow(self, data: st.DataObject) -> object:
        """One more block for an attempt that decodes."""
        last = data.draw(st.sampled_from([use for use in self.all_uses if use.is_live and not use.is_cached]))
        try:
            (ref,) = self.table.grow(last.key, 1, BlockState.COMMITTED, last.ref)
        except NoBlocks:
            require(self._free() == 0, "refused although there was room")
            return multiple()
        require(self._free() > 0, "given more than there was")
        return self._made(last.key, ref, BlockState.COMMITTED)

    @rule(use=uses)
    def drive_write_into_a_reservation_that_ended(self, use: Use) -> None:
        """A writer is at work, its attempt is aborted, others take what is free: the race of every late chunk."""
        if use.is_live and use.state is BlockState.RECEIVING and not use.pins:
            self.begin_write(use)
            self.abort(use.key)
            self._allocate(KEYS[0], 1, BlockState.RECEIVING)

    @rule(key=st.sampled_from(KEYS))
    def commit(self, key: AttemptKey) -> None:
        live = [use for use in self.all_uses if use.is_of(key) and not use.is_cached]
        is_allowed = all(use.state is BlockState.RECEIVING and not use.pins for use in live)
        try:
            self.table.commit(key)
        except IntegrityError:
            require(not is_allowed, "a commit was refused for nothing")
            return
        require(is_allowed, "committed under a writer's hands")
        for use in live:
            use.state = BlockState.COMMITTED

    @rule(use=uses)
    def share(self, use: Use) -> None:
        try:
            self.table.share(use.key, [use.ref])
        except IntegrityError:
            require(not use.is_of(use.key), "a live reference was refused")
            return
        require(use.is_of(use.key), "shared a block of another use")
        use.references += 1
        if use.is_cached:
            use.readers[use.key] += 1

    @rule(use=uses, key=st.none() | st.sampled_from(KEYS))
    def release(self, use: Use, key: AttemptKey | None) -> None:
        """Also of uses that ended long ago, and by others than who holds them: then nothing may change."""
        key = key or use.key
        try:
            returned = self.table.release(key, [use.ref])
        except IntegrityError:
            require(not use.is_of(key), "a live reference was refused")
            return
        require(use.is_of(key), "released a block of another use")
        use.references -= 1
        ended = use.is_cached and use.readers[key] == 1
        require(returned == ((use.ref,) if ended else ()), "who reads it no more is told wrong")
        if ended:
            del use.readers[key]
        elif use.is_cached:
            use.readers[key] -= 1

    @rule(key=st.sampled_from(KEYS))
    def abort(self, key: AttemptKey) -> None:
        live = [use for use in self.all_uses if use.is_of(key)]
        require(self.table.release_all(key) == len(live), "an abort left blocks behind")
        for use in live:
            use.references -= use.readers.pop(key) if use.is_cached else use.references

    @rule(old=st.sampled_from(KEYS), new=st.sampled_from(KEYS))
    def rekey(self, old: AttemptKey, new: AttemptKey) -> None:
        """A later attempt takes over what an earlier one holds; readers at work for the old one may finish."""
        moved = [use for use in self.all_uses if use.is_of(old)]
        has_some = any(use.is_of(new) for use in self.all_uses)
        try:
            require(self.table.rekey(old, new) == len(moved), "blocks were lost between two attempts")
        except IntegrityError:
            require(has_some, "a take-over was refused for nothing")
            return
        require(not has_some, "took over beside blocks of its own")
        for use in moved:
            if use.is_cached:
                use.readers[new] = use.readers.pop(old)
            else:
                use.key = new

    # --- the cache's side ---

    @rule(use=uses)
    def cache(self, use: Use) -> None:
        expected = use.is_of(use.key) and not use.is_cached and use.state in (BlockState.SEALED, BlockState.COMMITTED)
        try:
            self.table.cache(use.key, [use.ref])
        except IntegrityError:
            require(not expected, "a complete block was not cached")
            return
        require(expected, "cached what is not complete or of another use")
        use.content, use.state = self.bytes[use.ref.block_id], BlockState.CACHED
        use.readers = {use.key: use.references}

    @rule(use=uses, key=st.sampled_from(KEYS))
    def borrow(self, use: Use, key: AttemptKey) -> None:
        try:
            new = self.table.borrow(key, [use.ref])
        except IntegrityError:
            require(not use.is_cached, "a cached block was not lent")
            return
        require(use.is_cached, "lent what is not cached")
        require(new == (() if key in use.readers else (use.ref,)), "a new reader is told wrong")
        use.readers[key] = use.readers.get(key, 0) + 1
        use.references += 1

    @rule(use=uses)
    def evict(self, use: Use) -> None:
        try:
            self.table.evict([use.ref])
        except IntegrityError:
            require(not use.is_cached or use.is_live or use.is_kept, "what nobody needs was not evicted")
            return
        require(use.is_cached and not use.is_live and not use.is_kept, "evicted what somebody needs")
        use.content = None

    @rule(use=uses, wanted=st.booleans())
    def keep(self, use: Use, wanted: bool) -> None:
        try:
            (self.table.keep if wanted else self.table.unkeep)([use.ref])
        except IntegrityError:
            require(not use.is_cached, "a cached block can't be kept")
            return
        require(use.is_cached, "kept what is not cached")
        use.is_kept = wanted

    # --- hand-over threads' side: any reference, any time ---

    @rule(use=uses)
    def pin(self, use: Use) -> None:
        expected = use.is_of(use.key) and use.state in (BlockState.SEALED, BlockState.CACHED)
        require(self.table.pin(use.ref, use.key) == expected, "pinned what is not there to be read, or refused what is")
        if expected:
            use.pins.append(self.bytes[use.ref.block_id])
            require(use.pins[-1] in (use.serial, use.content), "a foreign block was pinned")

    @rule(use=uses)
    def begin_write(self, use: Use) -> None:
        expected = use.is_live and use.state is BlockState.RECEIVING
        require(
            self.table.begin_write(use.ref, use.key) == expected, "writes to what does not wait for it, or is refused"
        )
        if expected:
            self.bytes[use.ref.block_id] = use.serial
            use.pins.append(use.serial)

    @precondition(lambda self: any(use.pins for use in self.all_uses))
    @rule(data=st.data())
    def let_go(self, data: st.DataObject) -> None:
        use = data.draw(st.sampled_from([use for use in self.all_uses if use.pins]))
        require(self.bytes[use.ref.block_id] == use.pins.pop(), "the bytes changed under a pin")
        unpin = self.table.end_write if use.state is BlockState.RECEIVING else self.table.unpin
        counts = use.is_cached if use.state is BlockState.CACHED else use.is_live
        require(unpin(use.ref) == counts, "who let go was told wrong whether it counts")

    # --- always ---

    @invariant()
    def books_balance(self) -> None:
        self.table.check_integrity()
        require(self.table.num_free == self._free(), "the number of free blocks is wrong")
        num_idle = sum(use.is_idle for use in self.all_uses)
        require(self.table.num_available == self._free() + num_idle, "the number of blocks to be had is wrong")
        for use in self.all_uses:
            require(use.content in (None, self.bytes[use.ref.block_id]), "the bytes of a cached block changed")
            if use.is_live:
                require(self.table.num_references(use.ref) == use.references, "the references are miscounted")
