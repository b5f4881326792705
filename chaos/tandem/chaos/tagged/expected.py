"""What a request must answer, from the model's definition alone: no engine, KV, paging, batching or process.

It shares with the engine the tags, the logits, the sampler and the text stream, which are pure; it does not share
anything that moves, stores, schedules or recovers.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from tandem.chaos.tagged.prefix import PrefixTags
from tandem.chaos.tagged.runner import next_logits
from tandem.core.errors import InternalError
from tandem.core.types import FinishReason, GenerationTask
from tandem.engine.sampling.sampler import Sampler, SampleRow
from tandem.text.stream import TextStream
from tandem.text.tokenizer import Tokenizer

_MOST_ROWS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedChild:
    """The whole answer of one child."""

    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason
    matched_stop: str | None


@dataclass(slots=True)
class _Growing:
    """One child under way."""

    task: GenerationTask
    child: int
    prefix: PrefixTags
    text: TextStream
    end_ids: frozenset[int]
    output: list[int] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    def take(self, token_id: int) -> None:
        """One more token."""
        self.output.append(token_id)
        self.prefix.extend((token_id,))
        is_end = token_id in self.end_ids
        if not is_end:
            self.pieces.append(self.text.feed(token_id).text)
        is_full = len(self.output) >= self.task.stop.max_tokens
        if self.text.matched_stop is None and (is_end or is_full):
            self.pieces.append(self.text.finish())
        if self.text.matched_stop is not None or is_end:
            self.finish_reason = FinishReason.STOP
        elif is_full:
            self.finish_reason = FinishReason.LENGTH


class Oracle:
    """Computes answers. Holds the tokenizer and no other state."""

    def __init__(self, model_folder: Path) -> None:
        self.tokenizer = Tokenizer.load(model_folder)
        self._sampler = Sampler()
        self._next = next_logits()

    def expected(self, task: GenerationTask) -> tuple[ExpectedChild, ...]:
        """Return what every child of ``task`` must say."""
        return self.expected_many([task])[0]

    def expected_many(self, tasks: Sequence[GenerationTask]) -> list[tuple[ExpectedChild, ...]]:
        """Return the same for many tasks, in lockstep: a row of a batch never depends on the others."""
        children = [[self._begin(task, child) for child in range(task.num_sequences)] for task in tasks]
        waiting = [one for family in children for one in family]
        active: list[_Growing] = []
        while active or waiting:
            while waiting and len(active) < _MOST_ROWS:
                active.append(waiting.pop())
            self._step(active)
            active = [one for one in active if one.finish_reason is None]
        return [tuple(_answer(one) for one in family) for family in children]

    def _begin(self, task: GenerationTask, child: int) -> _Growing:
        prefix = PrefixTags(task.tenant)
        prefix.extend(task.prompt_token_ids)
        eos: Iterable[int] = () if task.stop.ignore_eos else self.tokenizer.eos_token_ids
        return _Growing(
            task=task,
            child=child,
            prefix=prefix,
            text=TextStream(self.tokenizer, task.prompt_token_ids, task.stop.stop, include_stop=task.stop.include_stop),
            end_ids=frozenset(eos) | frozenset(task.stop.stop_token_ids),
        )

    def _step(self, active: list[_Growing]) -> None:
        tags = np.array([one.prefix.tags[-1] for one in active], dtype=np.uint64)
        rows = [
            SampleRow(
                params=one.task.sampling,
                child=one.child,
                position=len(one.output),
                prompt_token_ids=one.task.prompt_token_ids,
                output_token_ids=one.output,
            )
            for one in active
        ]
        with torch.inference_mode():
            drawn = self._sampler.sample(torch.from_numpy(self._next.of(tags)), rows)
        for one, token in zip(active, drawn, strict=True):
            if token.token_id is None:
                raise InternalError("the tagged model never gives NaN without poison")
            one.take(token.token_id)


def _answer(one: _Growing) -> ExpectedChild:
    if one.finish_reason is None:
        raise InternalError("the answer is not complete")
    return ExpectedChild(
        token_ids=tuple(one.output),
        text="".join(one.pieces),
        finish_reason=one.finish_reason,
        matched_stop=one.text.matched_stop,
    )
