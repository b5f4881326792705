"""Which sequences run in the next step, and with which blocks.

Holds the lists a sequence moves through, and asks the pure policies beside it::

    waiting ──admission──► prefilling ──prompt computed──► decoding ──► ended
       ▲                       │                              │ ▲
       └────── preemption: blocks freed, tokens kept ─────────┘ └── arrived (KV handed over, awaits its batch)

A preempted sequence is computed again from its tokens and continues exactly. Engine thread only. It moves blocks,
never KV bytes or tokens.
"""

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass

from tandem.core.blocks import AttemptKey, BlockRef
from tandem.engine.config import EngineConfig
from tandem.engine.kv.block_table import BlockState, NoBlocks, Placement
from tandem.engine.kv.memory import KvMemory
from tandem.engine.reuse import PrefixReuse
from tandem.engine.scheduling.admission import BlockDemand, may_admit
from tandem.engine.scheduling.batching import BatchView, batching_policy
from tandem.engine.scheduling.chunks import plan_chunks
from tandem.engine.scheduling.order import Urgency
from tandem.engine.sequence import Attempt, AttemptKind, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedChunk:
    """Prompt tokens of one sequence to compute in this step."""

    sequence: Sequence
    num_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """Rows of one forward pass."""

    decoding: tuple[Sequence, ...]
    chunks: tuple[PlannedChunk, ...]
    num_preempted: int

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to run."""
        return not self.decoding and not self.chunks


def _order(sequence: Sequence) -> tuple[Urgency, int]:
    return sequence.order


class Scheduler:
    """Sequences of all attempts on this worker, and the reservations of those that still await their KV."""

    def __init__(self, memory: KvMemory, config: EngineConfig, reuse: PrefixReuse) -> None:
        self._memory = memory
        self._reuse = reuse
        self._config = config
        self._policy = batching_policy(config)
        self.waiting: list[Sequence] = []  # all lists: most urgent first
        self.arrived: list[Sequence] = []
        self.prefilling: list[Sequence] = []
        self.decoding: list[Sequence] = []
        self._reserved: dict[AttemptKey, Attempt] = {}

    # --- changes from outside ----------------------------------------------------------------------------------------

    def submit(self, sequence: Sequence) -> None:
        """Queue a sequence without blocks: its KV is to be computed here."""
        insort(self.waiting, sequence, key=_order)

    def reserve(self, attempt: Attempt) -> None:
        """Count an attempt whose KV is on its way."""
        self._reserved[attempt.key] = attempt

    def unreserve(self, attempt: Attempt) -> None:
        """Stop counting it: its KV came, or it ended."""
        self._reserved.pop(attempt.key, None)

    def arrive(self, sequence: Sequence) -> None:
        """Take a sequence whose KV was handed over; it decodes when the batching policy lets it join."""
        insort(self.arrived, sequence, key=_order)

    def forked(self, sequence: Sequence) -> None:
        """Take a child whose prompt was just computed here: it decodes, or first computes the rest of its tokens."""
        missing = self._memory.blocks_for(sequence.num_tokens) - len(sequence.blocks)
        if sequence.num_left == 1:
            insort(self.decoding, sequence, key=_order)
        elif sequence.blocks and missing <= self._memory.num_free:
            sequence.adopt(self._memory.allocate(sequence.key, missing, BlockState.COMMITTED))
            insort(self.prefilling, sequence, key=_order)
        else:
            self.preempt(sequence)

    def preempt(self, sequence: Sequence) -> None:
        """Free a sequence's blocks and queue it: it computes its tokens again when there is room."""
        self.remove(sequence)
        self._memory.release(sequence.key, sequence.drop_blocks())
        sequence.was_preempted = True
        self.submit(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence wherever it is; its blocks are the caller's business."""
        for place in (self.decoding, self.prefilling, self.arrived, self.waiting):
            if sequence in place:
                place.remove(sequence)
                return

    # --- questions ---------------------------------------------------------------------------------------------------

    def num_slots_used(self) -> int:
        """Places of the batch in use: sequences that run, arrived or were preempted, and reservations."""
        return self._num_active() + sum(s.num_slots for s in self.arrived) + self._num_reserved()

    def num_waiting(self) -> int:
        """Sequences accepted that do not run."""
        return sum(s.num_slots for s in (*self.waiting, *self.arrived))

    def can_run(self, now_s: float) -> bool:
        """Whether a step would compute anything."""
        if self.decoding or self.prefilling:
            return True
        quota = self._policy.quota(self._view(now_s))
        if self.arrived and quota:
            return True
        head = self._head(quota)
        return head is not None and self._may_start(head)

    def ready_in_s(self, now_s: float) -> float | None:
        """Seconds until something can run without any further event; None when only an event can start it."""
        if self.can_run(now_s):
            return 0.0
        wait_s = self._policy.ready_in_s(self._view(now_s))
        return wait_s if wait_s else None  # 0 here: the policy is ready and the memory is not

    def fits_reservation(self, *, num_blocks: int, growth_blocks: int) -> bool:
        """Whether a hand-over's blocks fit beside what runs, what is reserved and what waits already."""
        queued = sum(self._memory.blocks_for(s.num_tokens) for s in self.waiting)
        return may_admit(
            BlockDemand(now_blocks=num_blocks, growth_blocks=growth_blocks),
            free_blocks=self._num_free() - queued,
            others_growth_blocks=self._others_growth(),
            is_alone=self._is_alone(),
            margin=self._config.growth_margin,
        )

    def growth_of(self, attempt: Attempt, *, num_sequences: int, num_blocks: int) -> int:
        """Return the blocks that ``num_sequences`` of an attempt may come to need beyond ``num_blocks`` shared ones."""
        if attempt.kind is AttemptKind.PREFILL:
            return 0
        task = attempt.task
        most = self._memory.blocks_for(len(task.prompt_token_ids) + task.stop.max_tokens)
        shared = len(task.prompt_token_ids) // self._memory.block_size if num_sequences > 1 else 0
        return max(shared + num_sequences * (most - shared) - num_blocks, 0)

    # --- the plan of one step ----------------------------------------------------------------------------------------

    def plan(self, now_s: float) -> StepPlan:
        """Give decoding sequences room for one token, admit what may start, and divide the token budget."""
        quota = self._policy.quota(self._view(now_s)) if self.waiting or self.arrived else 0
        quota -= self._join(quota)
        num_preempted = self._make_room() if self._decodes_now() else 0
        self._admit(quota)
        decoding = tuple(self.decoding) if self._decodes_now() else ()
        budget = self._config.mixed_prefill_tokens if decoding else self._config.max_batched_tokens
        sizes = plan_chunks((s.num_left for s in self.prefilling), budget)
        chunks = tuple(
            PlannedChunk(sequence=sequence, num_tokens=size)
            for sequence, size in zip(self.prefilling, sizes, strict=False)
        )
        return StepPlan(decoding=decoding, chunks=chunks, num_preempted=num_preempted)

    def _decodes_now(self) -> bool:
        return not (self._policy.separates_phases and self.prefilling)

    def _make_room(self) -> int:
        """Give every decoding sequence the block of its next token; the least urgent gives way where none is left."""
        num_preempted = 0
        for sequence in tuple(self.decoding):
            while self._memory.blocks_for(sequence.num_tokens) > len(sequence.blocks) and sequence in self.decoding:
                try:
                    sequence.adopt([self._memory.grow(sequence.key, sequence.blocks[-1])])
                except NoBlocks:
                    self.preempt(max((*self._running(), *self.arrived), key=_order))
                    num_preempted += 1
        return num_preempted

    def _join(self, quota: int) -> int:
        joining, self.arrived = self.arrived[:quota], self.arrived[quota:]
        for sequence in joining:
            insort(self.decoding, sequence, key=_order)
        return len(joining)

    def _admit(self, quota: int) -> None:
        while True:
            head = self._head(quota)
            if head is None or not self._has_tokens_for(head) or not self._may_start(head):
                return
            self.waiting.remove(head)
            quota -= 0 if head.was_preempted else head.num_slots
            self._reuse.start(head)
            head.adopt(self._first_blocks(head))
            insort(self.prefilling, head, key=_order)

    def _head(self, quota: int) -> Sequence | None:
        """Return the first waiting sequence if it has a place. Nobody overtakes it: large requests would starve.

        Those that are held are passed over: they wait for a moment, and by their own choice.
        """
        head = next((sequence for sequence in self.waiting if not sequence.is_held), None)
        if head is None:
            return None
        # More children than a whole static batch still make a batch of their own.
        has_place = head.num_slots <= quota or (quota > 0 and not self.decoding and not self.prefilling)
        return head if head.was_preempted or has_place else None

    def _may_start(self, sequence: Sequence) -> bool:
        num_blocks = self._memory.blocks_for(sequence.num_tokens)
        # Cached blocks that others read cost nothing; idle ones are among the free ones, so taking them costs as much.
        num_needed = num_blocks - self._reuse.found(sequence).num_busy
        return may_admit(
            BlockDemand(now_blocks=num_needed, growth_blocks=self._growth(sequence, num_blocks)),
            free_blocks=self._num_free(),
            others_growth_blocks=self._others_growth(),
            is_alone=self._is_alone(),
            margin=self._config.growth_margin,
        )

    def _first_blocks(self, sequence: Sequence) -> tuple[BlockRef, ...]:
        num_blocks = self._memory.blocks_for(sequence.num_tokens) - len(sequence.blocks)
        self._memory.yield_pins(num_blocks, sequence.attempt.task.tenant)
        if sequence.attempt.kind is AttemptKind.PREFILL:
            return self._memory.allocate(sequence.key, num_blocks, BlockState.FILLING, Placement.PACKED)
        return self._memory.allocate(sequence.key, num_blocks, BlockState.COMMITTED)

    # --- sums --------------------------------------------------------------------------------------------------------

    def _running(self) -> Iterator[Sequence]:
        yield from self.decoding
        yield from self.prefilling

    def _num_active(self) -> int:
        preempted = sum(s.num_slots for s in self.waiting if s.was_preempted)
        return preempted + sum(s.num_slots for s in self._running())

    def _num_reserved(self) -> int:
        return sum(len(attempt.open_children) for attempt in self._reserved.values())

    def _has_tokens_for(self, head: Sequence) -> bool:
        """Late binding: no blocks for a prompt that this step would not work on, unless it belongs to a batch."""
        before = sum(s.num_left for s in self.prefilling if s.order < head.order)
        return self._policy.separates_phases or before < self._config.max_batched_tokens

    def _view(self, now_s: float) -> BatchView:
        candidates = [s for s in self.waiting if not (s.was_preempted or s.is_held)] + self.arrived
        # When only preempted sequences are left of a batch, others may hold the blocks they wait for: then it is over.
        is_running = bool(self.decoding or self.prefilling)
        return BatchView(
            num_running=self._num_active() if is_running else 0,
            num_reserved=self._num_reserved(),
            num_waiting=sum(s.num_slots for s in candidates),
            oldest_wait_s=max((now_s - s.attempt.arrived_s for s in candidates), default=0.0),
        )

    def _num_free(self) -> int:
        """Blocks to be had; a pin makes nobody wait for it who would otherwise run."""
        return self._memory.num_free_without_pins if self._is_alone() else self._memory.num_free

    def _is_alone(self) -> bool:
        return not (self.decoding or self.prefilling or self.arrived or self._reserved)

    def _growth(self, sequence: Sequence, num_blocks: int) -> int:
        return self.growth_of(sequence.attempt, num_sequences=sequence.num_slots, num_blocks=num_blocks)

    def _others_growth(self) -> int:
        sequences = (*self._running(), *self.arrived)
        reserved = (
            self.growth_of(a, num_sequences=len(a.open_children), num_blocks=len(a.reserved))
            for a in self._reserved.values()
        )
        return sum(self._growth(s, len(s.blocks)) for s in sequences) + sum(reserved)
