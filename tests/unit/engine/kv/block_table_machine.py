"""Hypothesis state machine over the production block table: an adversary that keeps every reference for ever.

The model names each use of a block by a serial number of its own, so it can tell two uses apart even when a broken
table gives both the same generation. It also holds the blocks' "bytes": whoever may write leaves its serial there, and
whoever pinned must find them unchanged at the unpin.
"""

from dataclasses import dataclass, field

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, precondition, rule

from tandem.core.blocks import AttemptKey, BlockRef
from tandem.core.ids import RequestId
from tandem.engine.kv.block_table import BlockState, BlockTable, IntegrityError, NoBlocks

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

    @property
    def is_live(self) -> bool:
        """Whether somebody owns it."""
        return self.references > 0


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
        return self.num_blocks - sum(1 for use in self.all_uses if use.is_live or use.pins)

    def _allocate(self, key: AttemptKey, count: int, state: BlockState) -> list[Use]:
        try:
            refs = self.table.allocate(key, count, state)
        except NoBlocks:
            assert count > self._free(), "refused although there was room"
            return []
        assert count <= self._free(), "given more than there was"
        made = []
        for ref in refs:
            self.serial += 1
            made.append(Use(key=key, ref=ref, serial=self.serial, state=state))
            self.bytes[ref.block_id] = 0  # cleared, as the memory does
        self.all_uses += made
        return made

    # --- owner's side ---

    @rule(target=uses, key=st.sampled_from(KEYS), count=st.integers(1, 2))
    def fill_and_seal(self, key: AttemptKey, count: int) -> object:
        """Straight to the stage where senders may pin."""
        made = self._allocate(key, count, BlockState.FILLING)
        for use in made:
            assert not self.table.pin(use.ref, key), "pinned a block that is not complete"
            self.bytes[use.ref.block_id] = use.serial
        self.table.seal(key, [use.ref for use in made])
        for use in made:
            use.state = BlockState.SEALED
        return multiple(*made)

    @rule(target=uses, key=st.sampled_from(KEYS), count=st.integers(1, 2))
    def reserve(self, key: AttemptKey, count: int) -> object:
        """Straight to the stage where receivers may write."""
        return multiple(*self._allocate(key, count, BlockState.RECEIVING))

    @rule(key=st.sampled_from(KEYS))
    def commit(self, key: AttemptKey) -> None:
        live = [use for use in self.all_uses if use.is_live and use.key == key]
        is_allowed = all(use.state is BlockState.RECEIVING and not use.pins for use in live)
        try:
            self.table.commit(key)
        except IntegrityError:
            assert not is_allowed
            return
        assert is_allowed, "committed under a writer's hands"
        for use in live:
            use.state = BlockState.COMMITTED

    @rule(use=uses)
    def share(self, use: Use) -> None:
        try:
            self.table.share(use.key, [use.ref])
        except IntegrityError:
            assert not use.is_live
            return
        assert use.is_live, "shared a block of another use"
        use.references += 1

    @rule(use=uses)
    def release(self, use: Use) -> None:
        """Also of uses that ended long ago: then nothing may change."""
        try:
            self.table.release(use.key, [use.ref])
        except IntegrityError:
            assert not use.is_live, "a live reference was refused"
            return
        assert use.is_live, "released a block of another use"
        use.references -= 1

    @rule(key=st.sampled_from(KEYS))
    def abort(self, key: AttemptKey) -> None:
        live = [use for use in self.all_uses if use.is_live and use.key == key]
        assert self.table.release_all(key) == len(live)
        for use in live:
            use.references = 0

    # --- hand-over threads' side: any reference, any time ---

    @rule(use=uses)
    def pin(self, use: Use) -> None:
        assert self.table.pin(use.ref, use.key) == (use.is_live and use.state is BlockState.SEALED)
        if use.is_live and use.state is BlockState.SEALED:
            use.pins.append(self.bytes[use.ref.block_id])
            assert use.pins[-1] == use.serial, "a foreign block was pinned"

    @rule(use=uses)
    def begin_write(self, use: Use) -> None:
        expected = use.is_live and use.state is BlockState.RECEIVING
        assert self.table.begin_write(use.ref, use.key) == expected
        if expected:
            self.bytes[use.ref.block_id] = use.serial
            use.pins.append(use.serial)

    @precondition(lambda self: any(use.pins for use in self.all_uses))
    @rule(data=st.data())
    def let_go(self, data: st.DataObject) -> None:
        use = data.draw(st.sampled_from([use for use in self.all_uses if use.pins]))
        assert self.bytes[use.ref.block_id] == use.pins.pop(), "the bytes changed under a pin"
        unpin = self.table.end_write if use.state is BlockState.RECEIVING else self.table.unpin
        assert unpin(use.ref) == use.is_live

    # --- always ---

    @invariant()
    def books_balance(self) -> None:
        self.table.check_integrity()
        assert self.table.num_free == self._free()
        for use in self.all_uses:
            if use.is_live:
                assert self.table.num_references(use.ref) == use.references
