"""One drawn token becomes output: text, stop conditions, the delta that goes to the client. No I/O."""

from tandem.core.types import FinishReason, TokenDelta
from tandem.engine.sampling.sampler import SampledToken
from tandem.engine.sequence import Sequence


def take_token(sequence: Sequence, token_id: int, sampled: SampledToken) -> TokenDelta:
    """Append ``token_id`` to the sequence and return its delta; sets ``finish_reason`` when the sequence ends.

    A stop token is counted and listed, but gives no text. At an end without a stop string, held-back text comes out.
    """
    attempt, task = sequence.attempt, sequence.attempt.task
    position = len(sequence.output)
    sequence.output.append(token_id)
    is_stop_token = token_id in attempt.stop_token_ids
    text, matched = "", None
    if not is_stop_token:
        delta = sequence.text.feed(token_id)
        text, matched = delta.text, delta.matched_stop
    is_full = len(sequence.output) >= task.stop.max_tokens
    if matched is None and (is_stop_token or is_full):
        text += sequence.text.finish()
        matched = sequence.text.matched_stop
    if matched is not None or is_stop_token:
        sequence.finish_reason = FinishReason.STOP
    elif is_full:
        sequence.finish_reason = FinishReason.LENGTH
    return TokenDelta(
        request_id=task.request_id,
        attempt=task.attempt,
        child=sequence.child,
        position=position,
        token_ids=(token_id,),
        text=text,
        logprobs=() if sampled.logprobs is None else (sampled.logprobs,),
        finish_reason=sequence.finish_reason,
        matched_stop=matched,
    )
