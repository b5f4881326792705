"""From the router's own values to records of decisions: what is kept of each, and in which words. Pure."""

from collections.abc import Sequence

from tandem.core.decisions import Admission, DecodeCandidate, Finished, Placed, PrefillCandidate, Recovery, Waiting
from tandem.core.types import GenerationTask
from tandem.router.actions import Ended, Requeue, WorkerKey
from tandem.router.admission.refusals import refusal
from tandem.router.admission.terms import AdmissionCause, AdmissionDecision
from tandem.router.placement_costs import num_cached_for, predict_handover_s
from tandem.router.placement_terms import NoCapacity, Option, Placement, Weighed

MAX_CANDIDATES = 8


def admission_record(decision: AdmissionDecision) -> Admission:
    """What was decided at the door, or while a request waited."""
    seen = decision.forecast
    return Admission(
        taken=decision.is_taken,
        cause=decision.cause.value,
        client_attempt=decision.attempt,
        cost_tokens=decision.cost_tokens,
        num_queued=decision.num_queued,
        load_level=decision.load_level,
        brown_out=int(decision.brown_out),
        wait_s=None if seen is None else seen.wait_s,
        prefill_wait_s=None if seen is None else seen.prefill_wait_s,
        slot_wait_s=None if seen is None else seen.slot_wait_s,
        block_wait_s=None if seen is None else seen.block_wait_s,
        prefill_s=None if seen is None else seen.prefill_s,
        error_s=None if seen is None else seen.error_s,
        ttft_s=None if seen is None else seen.ttft_s,
        bound_s=decision.bound_s,
        limit_s=decision.limit_s,
        retry_after_s=decision.retry_after_s,
        displaces=decision.displaces or "",
    )


def admission_words(decision: AdmissionDecision) -> str:
    """Why, without the tenant's name."""
    match decision.cause:
        case AdmissionCause.ROOM:
            return "nothing goes before it"
        case AdmissionCause.FITS:
            return "it waits its turn and is predicted to be in time"
        case AdmissionCause.REQUEST_RATE:
            return "its tenant's limit of requests per minute is used up"
        case AdmissionCause.TOKEN_RATE:
            return "its tenant's limit of tokens per minute is used up"
        case _:
            return refusal(decision).message


def waiting_record(task: GenerationTask, choice: NoCapacity, *, num_waiting: int) -> Waiting:
    """Why the head of the queue can't go."""
    waits_for = "" if choice.waits_for is None else choice.waits_for.worker_id
    return Waiting(attempt=task.attempt, num_waiting=num_waiting, waits_for=waits_for)


def placement_record(task: GenerationTask, placement: Placement, *, waited_s: float) -> Placed:
    """Where an attempt goes, with the best of what was looked at; the chosen ones are always among them."""
    prefill, decode, weighed = placement.prefill, placement.decode, placement.weighed
    computes = decode if prefill is None else prefill
    if weighed is None:
        return Placed(
            attempt=task.attempt,
            cause=placement.cause.value,
            decode=decode.worker_id,
            prefill="" if prefill is None else prefill.worker_id,
            prompt_tokens=len(task.prompt_token_ids),
            num_sequences=task.num_sequences,
            growth_tokens=0,
            waited_s=waited_s,
            num_waiting=0,
            predicted_ttft_s=placement.predicted_ttft_s,
            predicted_prefill_s=placement.predicted_prefill_s,
            num_blocks=placement.num_blocks,
        )
    demand = weighed.demand
    prefills = [_prefill_candidate(weighed, one) for one in _best(weighed.prefills, prefill)]
    local_s = {id(one.worker): one.cost_s for one in weighed.locals}  # the same views as in decodes
    decodes = [_decode_candidate(weighed, one, local_s) for one in _best(weighed.decodes, decode)]
    looked = prefills if prefill is not None else decodes
    cached = next((one.cached_tokens for one in looked if one.worker == computes.worker_id), 0)
    handover_s = next((one.handover_s for one in decodes if one.worker == decode.worker_id), 0.0)
    return Placed(
        attempt=task.attempt,
        cause=placement.cause.value,
        decode=decode.worker_id,
        prefill="" if prefill is None else prefill.worker_id,
        prompt_tokens=demand.num_prompt_tokens,
        num_sequences=demand.num_sequences,
        growth_tokens=demand.growth_tokens,
        waited_s=waited_s,
        num_waiting=demand.num_waiting,
        predicted_ttft_s=placement.predicted_ttft_s,
        predicted_prefill_s=placement.predicted_prefill_s,
        predicted_handover_s=handover_s if placement.cause.is_split else 0.0,
        cached_tokens=cached,
        num_blocks=placement.num_blocks,
        prefills=tuple(prefills),
        decodes=tuple(decodes),
        num_prefills=len(weighed.prefills),
        num_decodes=len(weighed.decodes),
        avoided=tuple(sorted(key.worker_id for key in demand.avoid)) if demand.avoid else (),
        own_prefill="" if placement.shared is None else placement.shared.own.worker_id,
        asked_s=0.0 if placement.shared is None else placement.shared.asked_s,
    )


def recovery_record(task: GenerationTask, cause: str, again: Requeue | None) -> Recovery:
    """Why another attempt is made; without ``again`` the request gave its place away."""
    emitted = sum(len(tokens) for tokens in task.emitted)
    if again is None:
        return Recovery(failed_attempt=task.attempt - 1, cause=cause, emitted_tokens=emitted)
    return Recovery(
        failed_attempt=task.attempt - 1,
        cause=cause,
        worker="" if again.worker is None else again.worker.worker_id,
        lost=again.lost,
        emitted_tokens=emitted,
        keeps_kv=again.keeps_kv,
        pause_s=again.delay_s,
        avoid=tuple(sorted(key.worker_id for key in again.avoid)),
        avoid_pairs=tuple(sorted(f"{pair.prefill.worker_id} > {pair.decode.worker_id}" for pair in again.avoid_pairs)),
    )


def recovery_words(record: Recovery, *, yielded: bool) -> str:
    """What happens, in words."""
    if yielded:
        return "it gave its place to a more urgent request and waits for another"
    if record.keeps_kv:
        return "only the hand-over failed: what the prefill worker has computed is handed over again"
    if record.emitted_tokens:
        return "the answer goes on after the tokens that the caller has"
    return "no token was sent yet: it begins again"


def end_record(ended: Ended, first: Placed | None) -> Finished:
    """How a request ended, beside what its first placement predicted."""
    usage, timings = ended.usage, ended.timings
    return Finished(
        outcome=ended.outcome.value,
        cause="" if ended.error is None else ended.error.reason,
        num_attempts=ended.num_attempts,
        prefill=ended.prefill_worker_id,
        decode=ended.decode_worker_id,
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        output_tokens=usage.output_tokens,
        predicted_ttft_s=None if first is None else first.predicted_ttft_s,
        predicted_prefill_s=None if first is None else first.predicted_prefill_s,
        tokenize_ms=timings.tokenize_ms,
        queue_ms=timings.queue_ms,
        prefill_ms=timings.prefill_ms,
        handover_ms=timings.handover_ms,
        first_decode_ms=timings.first_decode_ms,
        ttft_ms=timings.ttft_ms,
        total_ms=timings.total_ms,
        handover_bytes=timings.handover_bytes,
        handover_skipped_bytes=timings.handover_skipped_bytes,
    )


def _best(options: Sequence[Option], chosen: WorkerKey | None) -> Sequence[Option]:
    if len(options) <= MAX_CANDIDATES:
        return options
    best = list(options[:MAX_CANDIDATES])
    if chosen is not None and all(one.worker.key != chosen for one in best):
        best[-1:] = [one for one in options if one.worker.key == chosen]
    return best


def _prefill_candidate(weighed: Weighed, option: Option) -> PrefillCandidate:
    worker = option.worker
    return PrefillCandidate(
        worker=worker.key.worker_id,
        queued_s=worker.queued_prefill_s,
        compute_s=option.cost_s - worker.queued_prefill_s,
        delay_s=option.delay_s,
        cached_tokens=num_cached_for(weighed.demand, worker),
        cost_s=option.cost_s + option.delay_s,
    )


def _decode_candidate(weighed: Weighed, option: Option, local_s: dict[int, float]) -> DecodeCandidate:
    worker = option.worker
    return DecodeCandidate(
        worker=worker.key.worker_id,
        num_sequences=worker.num_sequences,
        free_blocks=worker.free_blocks,
        cached_tokens=num_cached_for(weighed.demand, worker),
        step_s=option.cost_s,
        handover_s=predict_handover_s(weighed.demand, worker),
        local_s=local_s.get(id(worker), 0.0),
    )
