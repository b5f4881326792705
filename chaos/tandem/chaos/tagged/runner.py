"""The tagged model as the engine's Runner: writes tags, checks every context in every step, answers from the tags."""

import os
import time
from collections.abc import Callable

import numpy as np
import torch

from tandem.chaos.tagged.evidence import Evidence, Mismatch, Verified
from tandem.chaos.tagged.kv_words import TaggedKv, WrongRow
from tandem.chaos.tagged.model import EOS_ID, VOCAB_SIZE, Poison
from tandem.chaos.tagged.prefix import TrackedSequence, TrackedSequences
from tandem.chaos.tagged.settings import TaggedCost
from tandem.chaos.tagged.tags import NAN_WORD, NextLogits, Words
from tandem.core.errors import InternalError
from tandem.engine.batch import ForwardBatch
from tandem.engine.kv.pool import KvPool
from tandem.engine.sequence import Sequence
from tandem.engine.spec import ModelSpec

_EXIT_STATUS = 139  # as after a segmentation fault
_LATE_TOKENS = 3


class TagMismatch(InternalError):
    """A row's context holds KV that is not its own, old, or torn. The forward pass fails, and it has been counted."""

    reason = "TAG_MISMATCH"


class PoisonRaised(RuntimeError):
    """A prompt asked for a failing forward pass."""


def next_logits() -> NextLogits:
    """Return the model's own function from tags to logits."""
    return NextLogits(vocab_size=VOCAB_SIZE, eos_token_ids=(EOS_ID,), unsaid_token_ids=sorted(Poison))


class TaggedRunner:
    """A `tandem.engine.execution.Runner`. Engine thread only.

    A context that is wrong only by being NaN gives NaN logits, as attention over it would; anything else wrong raises
    TagMismatch.
    """

    def __init__(
        self,
        spec: ModelSpec,
        pool: KvPool,
        *,
        cost: TaggedCost,
        evidence: Evidence,
        sleep: Callable[[float], None] = time.sleep,
        exit_now: Callable[[int], None] = os._exit,
    ) -> None:
        """Raise ValueError for a pool that is not float32 on the CPU."""
        if pool.data.device.type != "cpu" or pool.data.dtype != torch.float32:
            raise ValueError(f"a tagged pool is float32 on the cpu, not {pool.data.dtype} on {pool.data.device}")
        self.spec = spec
        self.pool = pool
        self._kv = TaggedKv(pool)
        self._cost = cost
        self._evidence = evidence
        self._sleep = sleep
        self._exit = exit_now
        self._next = next_logits()
        self._known = TrackedSequences()

    def forward(self, batch: ForwardBatch) -> torch.Tensor:
        """Write the batch's tags, check every row's whole context, return fp32 logits [R, vocab].

        Raises TagMismatch, or what a poisoned prompt asks for.
        """
        owners = [owner for owner in batch.owners if owner is not None]
        if len(owners) != batch.num_sequences:
            raise ValueError("the tagged model computes for requests only; set engine.profile_budget_s to 0")
        tracked = [self._known.of(owner) for owner in owners]
        contexts = [t.cover(o, end) for t, o, end in zip(tracked, owners, batch.context_lens_list, strict=True)]
        lens = batch.query_lens_list
        new_tags = np.concatenate([tags[len(tags) - num :] for tags, num in zip(contexts, lens, strict=True)])
        slots = batch.slots.numpy()
        self._kv.write(slots, new_tags)
        self._act_on_poison(batch, owners, tracked)
        nan_rows = self._verify(batch, owners, contexts)
        logits = self._next.of(new_tags[batch.logit_rows.numpy()])
        if nan_rows:
            row_of_token = np.repeat(np.arange(len(owners)), lens)
            logits[np.isin(row_of_token[batch.logit_rows.numpy()], nan_rows)] = np.nan
        self._count(batch, owners)
        return torch.from_numpy(logits)

    def _verify(self, batch: ForwardBatch, owners: list[Sequence], contexts: list[Words]) -> list[int]:
        """Return the rows whose KV is NaN; raise on rows whose KV is wrong."""
        wrong = self._kv.wrong_rows(batch.block_tables_list, contexts)
        bad = [row for row in wrong if not row.is_nan]
        for row in bad:
            self._evidence.mismatch(_mismatch(row, owners[row.row], len(contexts[row.row])))
        if bad:
            first, owner = bad[0], owners[bad[0].row]
            raise TagMismatch(
                f"{len(bad)} of {len(owners)} rows hold wrong KV; the first is request {owner.key.request_id} attempt"
                f" {owner.key.attempt} child {owner.child} at position {first.position} (block {first.block_id})"
            )
        nan_rows = [row.row for row in wrong]
        if nan_rows:
            self._evidence.add(Verified(nan_rows=len(nan_rows)))
        return nan_rows

    def _act_on_poison(self, batch: ForwardBatch, owners: list[Sequence], tracked: list[TrackedSequence]) -> None:
        if not any(known.poisons for known in tracked):
            return
        starts = batch.query_starts.tolist()
        for row, (owner, known) in enumerate(zip(owners, tracked, strict=True)):
            if known.poisons:
                self._act(batch, owner, known.poisons, range(starts[row], starts[row + 1]))

    def _act(self, batch: ForwardBatch, owner: Sequence, poisons: frozenset[Poison], tokens: range) -> None:
        """Do what the poisons ask for, if this row computes the place where they act."""
        ids = batch.token_ids[tokens.start : tokens.stop].numpy()
        if Poison.LATE in poisons:
            due = batch.positions[tokens.start : tokens.stop].numpy() == len(owner.prompt) + _LATE_TOKENS - 1
            acting = poisons - {Poison.LATE} if due.any() else frozenset[Poison]()
        else:
            due = np.isin(ids, sorted(poisons))
            acting = frozenset(Poison(token) for token in ids[due].tolist())
        if Poison.NAN in acting:
            places = due if Poison.LATE in poisons else ids == Poison.NAN
            self._kv.fill_first_layer(batch.slots[tokens.start : tokens.stop].numpy()[places], NAN_WORD)
        if Poison.STALL in acting:
            self._sleep(self._cost.stall_s)
        if Poison.EXIT in acting:
            self._exit(_EXIT_STATUS)
        if Poison.OUT_OF_MEMORY in acting:
            raise torch.OutOfMemoryError("a poisoned prompt asked for it")
        if Poison.RAISE in acting:
            raise PoisonRaised("a poisoned prompt asked for it")

    def _count(self, batch: ForwardBatch, owners: list[Sequence]) -> None:
        num_decode = sum(
            num == 1 and end > len(owner.prompt)
            for owner, num, end in zip(owners, batch.query_lens_list, batch.context_lens_list, strict=True)
        )
        num_prefill = batch.num_tokens - num_decode
        self._evidence.add(
            Verified(
                num_steps=1,
                num_rows=len(owners),
                num_tokens=sum(batch.context_lens_list),
                num_prefill_tokens=num_prefill,
                num_decode_rows=num_decode,
            )
        )
        seconds = self._cost.seconds(num_prefill_tokens=num_prefill, num_decode_rows=num_decode)
        if seconds > 0.0:
            self._sleep(seconds)


def _mismatch(row: WrongRow, owner: Sequence, num_tokens: int) -> Mismatch:
    return Mismatch(
        request_id=owner.key.request_id,
        attempt=owner.key.attempt,
        child=owner.child,
        tenant=owner.attempt.task.tenant,
        position=row.position,
        block_id=row.block_id,
        num_wrong_slots=row.num_wrong_slots,
        num_tokens=num_tokens,
        found=f"{row.found:016x}",
        expected=f"{row.expected:016x}",
        at_s=time.monotonic(),
    )
