"""The simulated model: KV that says whose it is, logits that carry the prefix's tag, and the answer known in advance.

Every token's slot holds 128 bits that are a function of (tenant, all tokens up to it). A forward pass compares the
whole context of every row with what it must be, through the block table; a stale, torn or foreign byte ends the run.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import torch

from tandem.core.types import FinishReason, GenerationTask, SamplingParams
from tandem.engine.batch import ForwardBatch
from tandem.engine.kv.pool import KvPool
from tandem.engine.sampling.sampler import SampledToken, SampleRow
from tandem.engine.sequence import Sequence as EngineSequence
from tandem.engine.spec import LayerSpec, ModelSpec
from tandem.text.stream import TextDelta

VOCAB_SIZE = 64
EOS_ID = 0
BLOCK_SIZE = 4
MAX_CONTEXT = 256
_SAID = 40  # tokens 0 … 39 are said; the others are for prompts only
POISON_EXIT, POISON_RAISE, POISON_NAN, POISON_OOM = 60, 61, 62, 63
_MASK = (1 << 64) - 1
_OTHER_HALF = np.uint64(0x1DEECE6691234567)
_FINITE = np.uint64(0xBFFF_FFFF_BFFF_FFFF)  # no tag looks like NaN or infinity: those are never handed over

SIM_SPEC = ModelSpec(
    architecture="sim",
    digest="sim",
    dtype="float32",
    vocab_size=VOCAB_SIZE,
    max_context_tokens=MAX_CONTEXT,
    layers=(LayerSpec(index=0, num_heads=1, num_kv_heads=1, head_dim=2, scale=1.0),),
    num_kv_heads=1,
    head_dim=2,
    rope_digest="none",
    eos_token_ids=(EOS_ID,),
)


class ProcessExit(BaseException):
    """The process ends on the spot, as after a segmentation fault."""


def first_state(tenant: str) -> int:
    """State before the first token."""
    return crc32(tenant.encode()) * 0x9E3779B97F4A7C15 & _MASK


def next_state(state: int, token_id: int) -> int:
    """State after one more token: the tag of the prefix."""
    state = ((state ^ (token_id + 0x9E3779B97F4A7C15)) * 0xD6E8FEB86659FD93) & _MASK
    return state ^ (state >> 32)


def choose(code: int, params: SamplingParams, child: int, position: int) -> int:
    """Token after a prefix of this 24-bit code: greedy by the code alone, sampled by (seed, child, position) too."""
    if params.temperature > 0.0:
        code = next_state(next_state(next_state(code, params.seed), child + 1), position) >> 20
    return code % _SAID


def code_of(state: int) -> int:
    """The 24 bits of a tag that fit a float32."""
    return state >> 40


class SimText:
    """Text of a token sequence; a third of the tokens hold their text back until the next one."""

    def __init__(self) -> None:
        self._held = ""

    @property
    def matched_stop(self) -> str | None:
        """Never one."""
        return None

    def feed(self, token_id: int) -> TextDelta:
        """See SequenceText."""
        text = self._held + f"{token_id}."
        self._held = ""
        if token_id % 3 == 1:
            self._held = text
            return TextDelta(text="")
        return TextDelta(text=text)

    def finish(self) -> str:
        """See SequenceText."""
        text, self._held = self._held, ""
        return text

    def replay(self, token_ids: Iterable[int]) -> None:
        """See SequenceText."""
        for token_id in token_ids:
            self.feed(token_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """All of one child."""

    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason


def expected_answer(task: GenerationTask, child: int) -> Answer:
    """Return what ``child`` must say, from the model's definition alone."""
    state = first_state(task.tenant)
    for token_id in task.prompt_token_ids:
        state = next_state(state, token_id)
    output: list[int] = []
    text, pieces = SimText(), []
    finish = FinishReason.LENGTH
    while len(output) < task.stop.max_tokens:
        token_id = choose(code_of(state), task.sampling, child, len(output))
        output.append(token_id)
        state = next_state(state, token_id)
        if token_id == EOS_ID and not task.stop.ignore_eos:
            finish = FinishReason.STOP
            break
        pieces.append(text.feed(token_id).text)
    return Answer(token_ids=tuple(output), text="".join(pieces) + text.finish(), finish_reason=finish)


class SimSampler:
    """A TokenSampler over codes; a NaN code is a row that fails alone."""

    def sample(self, logits: torch.Tensor, rows: Sequence[SampleRow]) -> list[SampledToken]:
        """See TokenSampler."""
        return [
            SampledToken(token_id=None if math.isnan(code) else choose(int(code), row.params, row.child, row.position))
            for code, row in zip(logits[:, 0].tolist(), rows, strict=True)
        ]


class SimRunner:
    """A Runner. ``spend`` takes the seconds of a pass, ``accuse`` what is wrong in a context."""

    def __init__(
        self,
        pool: KvPool,
        *,
        spend: Callable[[int, int], None],
        accuse: Callable[[str], None],
        on_pass: Callable[[Sequence[EngineSequence]], set[int]],
    ) -> None:
        self.spec = SIM_SPEC
        self.pool = pool
        self.num_tokens_checked = 0
        self._spend = spend
        self._accuse = accuse
        self._on_pass = on_pass
        words = pool.data.numpy().view(np.uint64)  # [block, layer, K | V, token, head, 1]
        self._words = words.reshape(pool.num_blocks, 2, pool.block_size)
        self._known: dict[tuple[str, int, int], list[int]] = {}

    def forward(self, batch: ForwardBatch) -> torch.Tensor:
        """Write tags, check contexts, return codes [R, 1] as logits."""
        owners = [owner for owner in batch.owners if owner is not None]
        is_decode = [num == 1 and owner.output != [] for num, owner in zip(batch.query_lens_list, owners, strict=True)]
        num_decode = sum(is_decode)
        self._spend(sum(batch.query_lens_list) - num_decode, num_decode)
        spoiled = self._on_pass(owners)
        tags = [self._tags(owner, end) for owner, end in zip(owners, batch.context_lens_list, strict=True)]
        for row, owner in enumerate(owners):
            self._write(batch.block_tables_list[row], tags[row], batch.query_lens_list[row])
            self._check(owner, batch.block_tables_list[row], tags[row])
        ends = np.cumsum(batch.query_lens_list).tolist()
        row_of = {end - 1: row for row, end in enumerate(ends)}
        rows = [row_of[token] for token in batch.logit_rows.tolist()]
        codes = [float("nan") if row in spoiled else float(code_of(tags[row][-1])) for row in rows]
        return torch.tensor(codes, dtype=torch.float32).reshape(-1, 1)

    def _tags(self, owner: EngineSequence, end: int) -> list[int]:
        key = (owner.key.request_id, owner.key.attempt, -1 if owner.is_lead else owner.child)
        known = self._known.get(key)
        if known is None:
            if len(self._known) > 512:
                self._known.pop(next(iter(self._known)))
            known = self._known[key] = []
        if len(known) < end:
            state = known[-1] if known else first_state(owner.attempt.task.tenant)
            for token_id in owner.tokens(len(known), end):
                state = next_state(state, token_id)
                known.append(state)
        return known[:end]

    def _write(self, table: Sequence[int], tags: list[int], num_new: int) -> None:
        size = self.pool.block_size
        words = self._words
        for position in range(len(tags) - num_new, len(tags)):
            block, offset = table[position // size], position % size
            tag = np.uint64(tags[position]) & _FINITE
            words[block, 0, offset] = tag
            words[block, 1, offset] = tag ^ _OTHER_HALF

    def _check(self, owner: EngineSequence, table: Sequence[int], tags: list[int]) -> None:
        num = len(tags)
        self.num_tokens_checked += num
        must = np.array(tags, dtype=np.uint64) & _FINITE
        found = self._words[list(table)]
        ids, others = found[:, 0].reshape(-1)[:num], found[:, 1].reshape(-1)[:num]
        if not (np.array_equal(ids, must) and np.array_equal(others, must ^ _OTHER_HALF)):
            wrong = np.flatnonzero((ids != must) | (others != must ^ _OTHER_HALF)).tolist()
            self._accuse(
                f"KV of {owner.key.request_id}/{owner.key.attempt} child {owner.child} is not its own at positions "
                f"{wrong[:8]} of {num} (blocks {[table[p // self.pool.block_size] for p in wrong[:8]]})"
            )
