"""Runs one planned step on the model and draws the tokens. It changes no schedule and knows no stop condition."""

from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Protocol

import torch

from tandem.core.event_log import EventSink
from tandem.core.event_log.events import DecodeStep, StepRow
from tandem.engine.batch import ForwardBatch
from tandem.engine.kv.pool import KvPool
from tandem.engine.runner import RunRow, build_batch
from tandem.engine.sampling.sampler import SampledToken, SampleRow, TokenSampler
from tandem.engine.scheduling.scheduler import StepPlan
from tandem.engine.sequence import Sequence
from tandem.engine.spec import ModelSpec
from tandem.engine.spoiling import SpoiledPass


class Runner(Protocol):
    """What the engine needs of a model: ``tandem.engine.runner.ModelRunner``, or a fake."""

    @property
    def spec(self) -> ModelSpec:
        """Shape of the model."""
        ...

    @property
    def pool(self) -> KvPool:
        """The KV pool the model writes to."""
        ...

    def forward(self, batch: ForwardBatch) -> torch.Tensor:
        """Write the batch's KV and return fp32 logits [R, vocab]."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """The token drawn for ``child`` at the end of ``sequence``'s tokens."""

    sequence: Sequence
    child: int
    token: SampledToken


def _children_to_draw(sequence: Sequence) -> tuple[int, ...]:
    """Children whose next token follows the last computed one; a recovering child goes on after what it emitted."""
    if not sequence.is_lead:
        return (sequence.child,)
    children = (sequence.child, *sequence.siblings)
    return tuple(child for child in children if not sequence.attempt.emitted(child))


class Executor:
    """Owns the model and the sampler for the engine thread."""

    def __init__(self, runner: Runner, sampler: TokenSampler) -> None:
        self.events: EventSink | None = None
        self._runner = runner
        self._sampler = sampler
        self._device = runner.pool.data.device

    def run(self, plan: StepPlan) -> list[Draw]:
        """Compute the plan's rows, advance ``num_computed`` of its sequences, draw. Raises what torch raises."""
        if self.events is not None and plan.decoding:
            self.events.record(DecodeStep(rows=tuple(map(_step_row, plan.decoding))))
        rows = [
            RunRow(
                token_ids=s.tokens(s.num_computed, s.num_tokens),
                start_position=s.num_computed,
                block_ids=s.block_ids,
                num_logits=1,
                owner=s,
            )
            for s in plan.decoding
        ]
        drawing: list[tuple[Sequence, tuple[int, ...]]] = [(s, (s.child,)) for s in plan.decoding]
        for chunk in plan.chunks:
            sequence, end = chunk.sequence, chunk.sequence.num_computed + chunk.num_tokens
            children = _children_to_draw(sequence) if end == sequence.num_tokens else ()
            rows.append(
                RunRow(
                    token_ids=sequence.tokens(sequence.num_computed, end),
                    start_position=sequence.num_computed,
                    block_ids=sequence.block_ids,
                    num_logits=1 if children else 0,
                    owner=sequence,
                )
            )
            if children:
                drawing.append((sequence, children))
        # Inference mode for the sampler too: it overwrites logits that were made in it.
        with torch.inference_mode():
            batch = build_batch(rows, block_size=self._runner.pool.block_size, device=str(self._device))
            spoiled = SpoiledPass(batch)
            spoiled.before()
            logits = self._runner.forward(batch)
            spoiled.after(logits, self._runner.pool)
            draws = self._draw(logits, drawing)
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()  # hand-over threads read what was written
        for sequence in plan.decoding:
            sequence.num_computed += 1
        for chunk in plan.chunks:
            chunk.sequence.num_computed += chunk.num_tokens
        return draws

    def _draw(self, logits: torch.Tensor, drawing: Items[tuple[Sequence, tuple[int, ...]]]) -> list[Draw]:
        if not drawing:
            return []
        rows = [_sample_row(sequence, child) for sequence, children in drawing for child in children]
        if len(rows) > len(drawing):
            # The children of one prompt draw from the same logits.
            sources = [row for row, (_, children) in enumerate(drawing) for _ in children]
            logits = logits[torch.tensor(sources, dtype=torch.int64, device=logits.device)]
        tokens = iter(self._sampler.sample(logits, rows))
        return [
            Draw(sequence=sequence, child=child, token=next(tokens))
            for sequence, children in drawing
            for child in children
        ]


def _step_row(sequence: Sequence) -> StepRow:
    """What a decode step is about to read for one sequence."""
    return StepRow(
        request=sequence.key.request_id,
        attempt=sequence.key.attempt,
        child=sequence.child,
        num_tokens=sequence.num_tokens,
        blocks=tuple(sequence.blocks),
    )


def _sample_row(sequence: Sequence, child: int) -> SampleRow:
    output = () if sequence.is_lead else sequence.output
    return SampleRow(
        params=sequence.attempt.task.sampling,
        child=child,
        position=len(output),
        prompt_token_ids=sequence.prompt,
        output_token_ids=output,
    )
