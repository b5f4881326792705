"""I1, I2, I3 and I6: the blocks of one process, followed through its own order of events. Zero I/O."""

from collections import deque

from tandem.chaos.trace.report import Findings
from tandem.chaos.trace.seen import Seen
from tandem.chaos.trace.words import name_block
from tandem.core.blocks import BlockRef
from tandem.core.event_log import events as ev

_HISTORY = 12
_HALF = 1 << 31
_MASK = (1 << 32) - 1


class _Block:
    """One block's present use, as its events tell it."""

    __slots__ = ("attempt", "generation", "history", "pins", "readers", "request", "state")

    def __init__(self) -> None:
        self.generation: int | None = None  # of the last allocation
        self.state = "free"
        self.request = ""
        self.attempt = 0
        self.pins = 0
        self.readers: set[tuple[str, int]] = set()  # attempts that read a cached block
        self.history: deque[Seen] = deque(maxlen=_HISTORY)

    def is_use(self, ref: BlockRef) -> bool:
        """Whether ``ref`` is the present use of the block."""
        return self.state != "free" and self.generation == ref.generation

    def is_of(self, request: str, attempt: int) -> bool:
        """Whether that attempt was given the block, or reads it as the cache's."""
        if self.state == "cached":
            return (request, attempt) in self.readers
        return self.request == request and self.attempt == attempt

    def __str__(self) -> str:
        if self.generation is None:
            return "it was never allocated"
        if self.state == "free":
            return f"it is free since generation {self.generation}"
        if self.state == "cached":
            readers = ", ".join(f"{request} attempt {attempt}" for request, attempt in sorted(self.readers))
            return f"it is cached, read by {readers or 'nobody'}, generation {self.generation}"
        return f"it is {self.state} for request {self.request} attempt {self.attempt}, generation {self.generation}"


class BlockBook:
    """All blocks of one process life."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._blocks: dict[int, _Block] = {}

    def allocated(self, seen: Seen, event: ev.BlocksAllocated) -> None:
        """I3 (and I6): only free blocks, each with a later generation."""
        for ref in event.blocks:
            block = self._block(ref)
            self._findings.checked("I3")
            if block.state != "free":
                self._broken("I3", seen, ref, f"{name_block(ref)} is allocated, but {block}")
            elif block.generation is not None and not _grows(block.generation, ref.generation):
                self._broken("I3", seen, ref, f"{name_block(ref)} is allocated after generation {block.generation}")
            if block.pins:
                self._broken("I6", seen, ref, f"{name_block(ref)} is allocated with {block.pins} pins")
            block.generation, block.state, block.pins = ref.generation, event.state, 0
            block.request, block.attempt = event.request, event.attempt
            block.history.append(seen)

    def rekeyed(self, seen: Seen, event: ev.BlocksRekeyed) -> None:
        """The blocks go from one attempt to a later one."""
        for ref in event.blocks:
            block = self._block(ref)
            self._findings.checked("I3")
            if not block.is_use(ref) or not block.is_of(event.request, event.from_attempt):
                self._broken("I3", seen, ref, f"{name_block(ref)} changes hands, but {block}")
            if block.state == "cached":
                block.readers.discard((event.request, event.from_attempt))
                block.readers.add((event.request, event.attempt))
            else:
                block.request, block.attempt = event.request, event.attempt
            block.history.append(seen)

    def cached(self, seen: Seen, event: ev.BlocksCached) -> None:
        """I1: only what its attempt computed or received, and nobody else's, may be lent from now on."""
        for ref in event.blocks:
            block = self._block(ref)
            self._findings.checked("I1")
            complete = block.state in ("filling", "sealed", "committed")
            if not block.is_use(ref) or not block.is_of(event.request, event.attempt) or not complete:
                owner = f"request {event.request} attempt {event.attempt}"
                self._broken("I1", seen, ref, f"{name_block(ref)} of {owner} is cached, but {block}")
            block.state, block.readers = "cached", {(event.request, event.attempt)}
            block.history.append(seen)

    def borrowed(self, seen: Seen, event: ev.BlocksBorrowed) -> None:
        """I1: only cached blocks are lent, in their present generation."""
        for ref in event.blocks:
            block = self._block(ref)
            self._findings.checked("I1")
            if not block.is_use(ref) or block.state != "cached":
                owner = f"request {event.request} attempt {event.attempt}"
                self._broken("I1", seen, ref, f"{name_block(ref)} is lent to {owner}, but {block}")
            block.readers.add((event.request, event.attempt))
            block.history.append(seen)

    def returned(self, seen: Seen, event: ev.BlocksReturned) -> None:
        """I3: only what was lent comes back."""
        for ref in event.blocks:
            block = self._block(ref)
            self._findings.checked("I3")
            if not block.is_use(ref) or not block.is_of(event.request, event.attempt) or block.state != "cached":
                owner = f"request {event.request} attempt {event.attempt}"
                self._broken("I3", seen, ref, f"{name_block(ref)} is returned by {owner}, but {block}")
            block.readers.discard((event.request, event.attempt))
            block.history.append(seen)

    def sealed(self, seen: Seen, event: ev.BlocksSealed) -> None:
        """A block in use was completed."""
        for ref in event.blocks:
            block = self._block(ref)
            self._findings.checked("I3")
            if not block.is_use(ref) or block.state != "filling":
                self._broken("I3", seen, ref, f"{name_block(ref)} is sealed, but {block}")
            block.state = "sealed"
            block.history.append(seen)

    def committed(self, seen: Seen, event: ev.BlocksCommitted) -> None:
        """I1 begins here: only received blocks of this attempt become readable, and nobody may still write to them."""
        for ref in event.blocks:
            block = self._block(ref)
            self._findings.checked("I1")
            fits = block.is_use(ref) and block.is_of(event.request, event.attempt) and block.state == "receiving"
            if not fits:
                owner = f"request {event.request} attempt {event.attempt}"
                self._broken("I1", seen, ref, f"{name_block(ref)} is committed for {owner}, but {block}")
            elif block.pins:
                self._broken("I1", seen, ref, f"{name_block(ref)} is committed while a writer holds it")
            block.state = "committed"
            block.history.append(seen)

    def freed(self, seen: Seen, event: ev.BlocksFreed) -> None:
        """I3 and I6: only blocks in use, in their present generation, without pins."""
        for ref in event.blocks:
            block = self._block(ref)
            self._findings.checked("I3")
            self._findings.checked("I6")
            if not block.is_use(ref):
                self._broken("I3", seen, ref, f"{name_block(ref)} is freed, but {block}")
            if block.pins:
                self._broken("I6", seen, ref, f"{name_block(ref)} is freed with {block.pins} pins")
            if block.state == "cached" and block.readers:
                self._broken("I3", seen, ref, f"{name_block(ref)} is freed, but {block}")
            block.state, block.pins = "free", 0
            block.readers = set()
            block.history.append(seen)

    def pinned(self, seen: Seen, event: ev.BlockPinned) -> None:
        """I6: only a block of this attempt, in the state that the purpose needs."""
        block = self._block(event.block)
        self._findings.checked("I6")
        needed = ("sealed", "cached") if event.purpose == "read" else ("receiving",)
        if not block.is_use(event.block) or not block.is_of(event.request, event.attempt) or block.state not in needed:
            owner = f"request {event.request} attempt {event.attempt}"
            what = f"{name_block(event.block)} is pinned to {event.purpose} it for {owner}"
            self._broken("I6", seen, event.block, f"{what}, but {block}")
        block.pins += 1
        block.history.append(seen)

    def unpinned(self, seen: Seen, event: ev.BlockUnpinned) -> None:
        """I6: only what was pinned, in the use in which it was pinned."""
        block = self._block(event.block)
        self._findings.checked("I6")
        if not block.is_use(event.block):
            self._broken("I6", seen, event.block, f"{name_block(event.block)} is unpinned, but {block}")
        elif block.pins == 0:
            self._broken("I6", seen, event.block, f"{name_block(event.block)} is unpinned more often than pinned")
        block.pins = max(block.pins - 1, 0)
        block.history.append(seen)

    def chunk_accepted(self, seen: Seen, event: ev.ChunkAccepted) -> None:
        """I2: the chunk names this life of this process, and the present use of a block that waits for it."""
        block = self._block(event.target)
        self._findings.checked("I2")
        chunk = f"chunk {event.seq} of request {event.request} attempt {event.attempt}"
        problem = ""
        if event.epoch != seen.process.epoch:
            problem = f"{chunk} of epoch {event.epoch} is accepted in epoch {seen.process.epoch}"
        elif event.named != event.target:
            problem = f"{chunk} names {name_block(event.named)} and is accepted for {name_block(event.target)}"
        elif not block.is_use(event.target) or not block.is_of(event.request, event.attempt):
            problem = f"{chunk} is accepted for {name_block(event.target)}, but {block}"
        elif block.state != "receiving":
            problem = f"{chunk} is written over {name_block(event.target)}, but {block}"
        elif not block.pins:
            problem = f"{chunk} is written to {name_block(event.target)}, which nobody holds"
        if problem:
            self._broken("I2", seen, event.target, problem)
        block.history.append(seen)

    def stepped(self, seen: Seen, event: ev.DecodeStep) -> None:
        """I1: every block read is committed and of the reader's own attempt, or cached and lent to it; and present."""
        for row in event.rows:
            self._findings.checked("I1")
            for ref in row.blocks:
                block = self._blocks.get(ref.block_id)
                if (
                    block is not None
                    and block.state in ("committed", "cached")
                    and block.generation == ref.generation
                    and block.is_of(row.request, row.attempt)
                ):
                    continue
                reader = f"request {row.request} attempt {row.attempt} child {row.child}"
                held = "it was never allocated" if block is None else str(block)
                self._broken("I1", seen, ref, f"a decode step of {reader} reads {name_block(ref)}, but {held}")

    def _block(self, ref: BlockRef) -> _Block:
        block = self._blocks.get(ref.block_id)
        if block is None:
            block = self._blocks[ref.block_id] = _Block()
        return block

    def _broken(self, invariant: str, seen: Seen, ref: BlockRef, problem: str) -> None:
        block = self._blocks.get(ref.block_id)
        history = () if block is None else tuple(block.history)
        self._findings.broken(invariant, seen, problem, history, block=ref)


def _grows(before: int, now: int) -> bool:
    """Generations are u32 and wrap: later = less than half the circle ahead."""
    return 0 < (now - before) & _MASK < _HALF
