"""A request's attempt on this worker and the sequences it consists of: state only, changed by scheduler and engine.

One attempt has ``num_sequences`` children that share their prompt. Until the prompt is computed one sequence, the lead,
stands for all of them; then the others fork from it::

    lead  [prompt ........]──┬─ child 0  o0 o1 o2 …      full prompt blocks shared by reference,
                             ├─ child 1  o0 o1 …         a partial last block copied
                             └─ child 2  o0 o1 o2 …
"""

from collections import Counter
from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from enum import Enum

from tandem.core.blocks import AttemptKey, BlockRef
from tandem.core.kv_events import Tier
from tandem.core.types import FinishReason, GenerationTask
from tandem.engine.kv.chain import Chain
from tandem.engine.scheduling.order import Urgency
from tandem.engine.text_output import SequenceText


class AttemptKind(Enum):
    """What this worker does for the attempt."""

    PREFILL = "prefill"  # compute the prompt for a decode worker
    HANDOVER = "handover"  # decode what a prefill worker computed
    LOCAL = "local"  # both here


@dataclass(slots=True, kw_only=True, eq=False)
class Attempt:
    """One attempt of one request on this worker."""

    key: AttemptKey
    task: GenerationTask
    kind: AttemptKind
    urgency: Urgency
    arrived_s: float
    deadline_s: float | None
    open_children: set[int]
    started_s: float | None = None  # first forward step
    prompt_reported: bool = False  # PrefillDone was emitted, or is another worker's to emit
    sequences: list["Sequence"] = field(default_factory=list)
    reserved: tuple[BlockRef, ...] = ()  # a hand-over's blocks before it is committed
    num_filled: int = 0  # prompt blocks announced as filled
    reserved_chain: Chain = field(default_factory=Chain)  # of ``reserved``
    num_cached_tokens: int | None = None  # prompt tokens that needed no computing here; None = not known yet
    promoted_tokens: Counter[Tier] = field(default_factory=Counter)  # fetched for it from slower tiers
    is_sealed: bool = False
    stop_token_ids: frozenset[int] = frozenset()  # the task's own and the model's end tokens

    def emitted(self, child: int) -> tuple[int, ...]:
        """Output tokens that ``child`` had before this attempt."""
        return self.task.emitted[child] if self.task.emitted else ()


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """Tokens and KV of one child, or of the lead that stands for several."""

    attempt: Attempt
    child: int
    text: SequenceText
    siblings: tuple[int, ...] = ()  # children that fork from this one once the prompt is computed
    output: list[int] = field(default_factory=list)
    blocks: list[BlockRef] = field(default_factory=list)
    block_ids: list[int] = field(default_factory=list)  # of ``blocks``, kept beside them for the batch
    num_computed: int = 0  # tokens whose KV is in the blocks
    finish_reason: FinishReason | None = None
    is_lead: bool = False
    chain: Chain = field(default_factory=Chain)  # what of ``blocks`` is the prefix cache's
    was_preempted: bool = False
    is_held: bool = False  # it waits for blocks from a slower tier; others go first

    @property
    def key(self) -> AttemptKey:
        """The attempt's key."""
        return self.attempt.key

    @property
    def prompt(self) -> tuple[int, ...]:
        """Prompt tokens."""
        return self.attempt.task.prompt_token_ids

    @property
    def num_tokens(self) -> int:
        """Prompt and output tokens so far."""
        return len(self.attempt.task.prompt_token_ids) + len(self.output)

    @property
    def num_left(self) -> int:
        """Tokens whose KV is still to be computed; 1 for a decoding sequence."""
        return self.num_tokens - self.num_computed

    @property
    def num_slots(self) -> int:
        """Places in the decode batch that it stands for."""
        return 1 + len(self.siblings)

    @property
    def order(self) -> tuple[Urgency, int]:
        """Sort key: who comes first, children of an attempt by number."""
        return (self.attempt.urgency, self.child)

    def tokens(self, start: int, end: int) -> Items[int]:
        """Tokens ``start .. end`` of prompt and output."""
        num_prompt = len(self.prompt)
        if start >= num_prompt:
            return self.output[start - num_prompt : end - num_prompt]
        if end <= num_prompt:
            return self.prompt[start:end]
        return (*self.prompt[start:], *self.output[: end - num_prompt])

    def adopt(self, refs: Items[BlockRef]) -> None:
        """Take blocks at the end of its table."""
        self.blocks.extend(refs)
        self.block_ids.extend(ref.block_id for ref in refs)

    def replace(self, first: int, refs: Items[BlockRef]) -> None:
        """Put equal blocks in the place of those from ``first`` on."""
        end = first + len(refs)
        self.blocks[first:end] = refs
        self.block_ids[first:end] = [ref.block_id for ref in refs]

    def drop_blocks(self) -> list[BlockRef]:
        """Forget its table and what was computed; return the references to release."""
        refs = self.blocks
        self.blocks, self.block_ids, self.num_computed = [], [], 0
        self.chain = self.chain.emptied()
        return refs
