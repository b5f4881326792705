"""What a forward pass means for the sequences in it: tokens go out, prompts end, children fork, failures stay alone.

Stages of one step: draws that are not finite fail their attempt → every other draw advances its sequence → prefill
work for others announces its filled blocks, if they are finite, and seals → finished children free their blocks.
"""

from dataclasses import dataclass, field

from tandem.core.blocks import FirstToken
from tandem.core.messages import AttemptFailed, AttemptReleased, PrefillDone
from tandem.core.reasons import NUMERICS
from tandem.core.types import TokenDelta
from tandem.engine.attempts import AttemptBook, KvStart
from tandem.engine.execution import Draw
from tandem.engine.intake import Intake
from tandem.engine.kv.memory import KvMemory
from tandem.engine.output import take_token
from tandem.engine.results import FilledBlocks, SealedPrefill
from tandem.engine.reuse import PrefixReuse
from tandem.engine.scheduling.scheduler import Scheduler, StepPlan
from tandem.engine.sequence import Attempt, AttemptKind, Sequence


@dataclass(slots=True)
class Progressed:
    """Collected over one step."""

    tokens: list[TokenDelta] = field(default_factory=list)
    events: list[AttemptFailed | PrefillDone] = field(default_factory=list)
    filled: list[FilledBlocks] = field(default_factory=list)
    sealed: list[SealedPrefill] = field(default_factory=list)
    released: list[AttemptReleased] = field(default_factory=list)  # to be told after the tokens


class Progress:
    """Applies draws to sequences."""

    def __init__(
        self, *, memory: KvMemory, reuse: PrefixReuse, scheduler: Scheduler, book: AttemptBook, intake: Intake
    ) -> None:
        self._memory = memory
        self._reuse = reuse
        self._scheduler = scheduler
        self._book = book
        self._intake = intake

    def apply(self, plan: StepPlan, draws: list[Draw], now_s: float) -> Progressed:
        """Advance everything that took part in the step."""
        out = Progressed()
        drawn: dict[int, list[Draw]] = {}
        for draw in draws:
            if draw.token.token_id is None and draw.sequence.attempt in self._book:
                message = f"the model's output for child {draw.child} is not finite"
                out.events.append(self._book.fail_scrubbed(draw.sequence.attempt, NUMERICS, message, retryable=False))
            drawn.setdefault(id(draw.sequence), []).append(draw)
        self._keep_filled(plan)
        for sequence in plan.decoding:
            if sequence.attempt in self._book:
                self._take(sequence, drawn[id(sequence)][0], out)
        for chunk in plan.chunks:
            if chunk.sequence.attempt in self._book:
                self._advance_prompt(chunk.sequence, drawn.get(id(chunk.sequence), []), now_s, out)
        return out

    def _keep_filled(self, plan: StepPlan) -> None:
        """Offer what was filled to the prefix cache, before anybody's end frees it. Prefills check theirs."""
        sequences = (*plan.decoding, *(chunk.sequence for chunk in plan.chunks))
        self._reuse.enter_filled(
            s for s in sequences if s.attempt in self._book and s.attempt.kind is not AttemptKind.PREFILL
        )

    def _take(self, sequence: Sequence, draw: Draw, out: Progressed) -> None:
        """A decoding sequence, or a prompt that only this child continues, got its next token."""
        if draw.token.token_id is None:
            return
        out.tokens.append(take_token(sequence, draw.token.token_id, draw.token))
        if sequence.finish_reason is not None and self._book.end_child(sequence):
            self._release(sequence.attempt, out)

    def _advance_prompt(self, sequence: Sequence, draws: list[Draw], now_s: float, out: Progressed) -> None:
        attempt = sequence.attempt
        if attempt.kind is AttemptKind.PREFILL and not self._announce_filled(sequence, out):
            return
        if sequence.num_left:
            return
        self._scheduler.prefilling.remove(sequence)
        self._report_prompt(attempt, now_s, out)
        if attempt.kind is AttemptKind.PREFILL:
            self._seal(sequence, draws, out)
        elif sequence.is_lead:
            self._fork_children(sequence, draws, out)
        else:
            self._take(sequence, draws[0], out)
            if sequence.finish_reason is None:
                self._scheduler.forked(sequence)

    def _announce_filled(self, sequence: Sequence, out: Progressed) -> bool:
        """Seal what is complete, for others to read; False: it is not finite, and the attempt has failed.

        Finite logits prove nothing here: a window may hide early tokens from the last row, and the logits come after
        the first blocks have left. What is not finite must not be handed over, nor kept for anybody's reuse.
        """
        attempt = sequence.attempt
        num_filled = sequence.num_computed // self._memory.block_size
        if not sequence.num_left:
            num_filled = len(sequence.blocks)
        refs = tuple(sequence.blocks[attempt.num_filled : num_filled])
        if not self._memory.is_finite(refs[max(sequence.chain.num_cached - attempt.num_filled, 0) :]):
            message = "the KV cache of the prompt is not finite"
            out.events.append(self._book.fail_scrubbed(attempt, NUMERICS, message, retryable=False))
            return False
        if refs:
            self._reuse.enter_checked(sequence)  # another attempt's equal blocks may take their place
            refs = tuple(sequence.blocks[attempt.num_filled : num_filled])
            own = sequence.blocks[max(attempt.num_filled, sequence.chain.num_cached) : num_filled]
            self._memory.table.seal(attempt.key, own)
            out.filled.append(FilledBlocks(key=attempt.key, first_ordinal=attempt.num_filled, refs=refs))
            attempt.num_filled = num_filled
        return True

    def _report_prompt(self, attempt: Attempt, now_s: float, out: Progressed) -> None:
        """Once per attempt: a preempted sequence that computes its prompt again is no news."""
        if attempt.prompt_reported:
            return
        attempt.prompt_reported = True
        started_s = now_s if attempt.started_s is None else attempt.started_s
        out.events.append(
            PrefillDone(
                request_id=attempt.key.request_id,
                attempt=attempt.key.attempt,
                wait_ms=1e3 * (started_s - attempt.arrived_s),
                compute_ms=1e3 * (now_s - started_s),
                num_cached_tokens=attempt.num_cached_tokens or 0,
            )
        )

    def _seal(self, sequence: Sequence, draws: list[Draw], out: Progressed) -> None:
        """The prompt's KV is complete: say each child's first token, and hold the blocks for the decode worker."""
        attempt = sequence.attempt
        first_tokens = []
        for child, delta in self._first_deltas(sequence, draws):
            out.tokens.append(delta)
            ended = child.finish_reason is not None
            first_tokens.append(FirstToken(child=child.child, token_id=delta.token_ids[0], finished=ended))
        attempt.is_sealed = True
        out.sealed.append(
            SealedPrefill(
                key=attempt.key,
                num_blocks=len(sequence.blocks),
                num_tokens=sequence.num_computed,
                first_tokens=tuple(first_tokens),
            )
        )

    def _fork_children(self, lead: Sequence, draws: list[Draw], out: Progressed) -> None:
        """The shared prompt is computed here: the lead dissolves into its children."""
        attempt = lead.attempt
        children = []
        recovering = set(attempt.open_children)
        for child, delta in self._first_deltas(lead, draws):
            out.tokens.append(delta)
            recovering.discard(child.child)
            if child.finish_reason is None:
                children.append(child)
            else:
                attempt.open_children.discard(child.child)
        children += [self._intake.sequence(attempt, child) for child in sorted(recovering)]
        if not children:
            self._book.end(attempt)
            self._release(attempt, out)
            return
        attempt.sequences.remove(lead)
        num_tokens, chain = lead.num_computed, lead.chain
        self._book.spread(KvStart(refs=lead.drop_blocks(), num_tokens=num_tokens, chain=chain), children)
        for child in children:
            self._scheduler.forked(child)

    def _first_deltas(self, sequence: Sequence, draws: list[Draw]) -> list[tuple[Sequence, TokenDelta]]:
        deltas = []
        for draw in draws:
            child = self._intake.sequence(sequence.attempt, draw.child) if sequence.is_lead else sequence
            if draw.token.token_id is not None:
                deltas.append((child, take_token(child, draw.token.token_id, draw.token)))
        return deltas

    def _release(self, attempt: Attempt, out: Progressed) -> None:
        out.released.append(AttemptReleased(request_id=attempt.key.request_id, attempt=attempt.key.attempt))
