"""Decisions in words: a line for a list, a paragraph for the life of one request. Pure."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from tandem.cluster.commands.report import table
from tandem.core import reasons
from tandem.core.decisions import (
    Admission,
    ControllerRound,
    Decision,
    Finished,
    HandoverFailed,
    Placed,
    Recovery,
    Waiting,
    WorkerJudged,
)

_INDENT = "             "
_BEST = ">"


def decision_line(decision: Decision) -> str:
    """One decision on one line."""
    at = datetime.fromtimestamp(decision.unix_s, UTC).strftime("%H:%M:%S.%f")[:-3]
    about = f" {decision.request_id}" if decision.request_id else ""
    return f"{at}  {decision.source}  {decision.kind:<10}{about}  {headline(decision)}: {decision.reason}"


def headline(decision: Decision) -> str:
    """What was decided, without why."""
    match decision.detail:
        case Admission() as detail:
            return "admitted" if detail.taken else f"not admitted ({_plain(detail.cause)})"
        case Waiting() as detail:
            return f"waits for {detail.waits_for}" if detail.waits_for else "waits"
        case Placed() as detail:
            return f"attempt {detail.attempt + 1}, {_where(detail)} ({_plain(detail.cause)})"
        case Recovery() as detail:
            return f"attempt {detail.failed_attempt + 1} is over ({detail.cause})"
        case HandoverFailed() as detail:
            return f"hand-over {detail.prefill} → {detail.decode} failed ({detail.cause}), pair {detail.state}"
        case WorkerJudged() as detail:
            return f"{detail.worker} is {detail.health}"
        case Finished() as detail:
            return f"ended {detail.outcome}" + (f" ({detail.cause})" if detail.cause else "")
        case ControllerRound() as detail:
            return _round_words(detail)


def life_lines(decisions: Sequence[Decision]) -> list[str]:
    """The life of one request, from its decisions in order."""
    first = decisions[0]
    end = next((one.detail for one in decisions if isinstance(one.detail, Finished)), None)
    refused = any(isinstance(one.detail, Admission) and not one.detail.taken for one in decisions)
    outcome = (
        end.outcome if end is not None else "not admitted" if refused else "still running, or its end is forgotten"
    )
    routers = routers_of(decisions)
    lines = [
        f"request {first.request_id}: {outcome}",
        f"class {first.priority}, tenant #{first.tenant_hash}, {', '.join(routers)}",
    ]
    if not isinstance(first.detail, Admission):
        lines.append("what came before is forgotten")
    for decision in decisions:
        since_s = decision.unix_s - first.unix_s
        who = f"{decision.source}: " if len(routers) > 1 else ""
        lines += ["", f"+{since_s:8.3f} s  {who}{headline(decision)}: {decision.reason}"]
        lines += [f"{_INDENT}{line}" for line in _numbers(decision, decisions)]
    return lines


def routers_of(decisions: Sequence[Decision]) -> list[str]:
    """Who made these decisions, by name."""
    return sorted({decision.source for decision in decisions})


def _numbers(decision: Decision, all_of_it: Sequence[Decision]) -> Iterator[str]:
    match decision.detail:
        case Admission() as detail:
            yield from _admission_numbers(detail)
        case Waiting() as detail:
            yield _others(detail.num_waiting)
        case Placed() as detail:
            yield from _placement_numbers(detail)
        case Recovery() as detail:
            yield from _recovery_numbers(detail)
        case Finished() as detail:
            placed = [one.detail for one in all_of_it if isinstance(one.detail, Placed)]
            yield from _end_numbers(detail, placed)
        case _:
            return


def _admission_numbers(detail: Admission) -> Iterator[str]:
    tried = f", its caller's attempt {detail.client_attempt + 1}" if detail.client_attempt else ""
    waited = "1 request" if detail.num_queued == 1 else f"{detail.num_queued} requests"
    yield f"{waited} waited, load of the last seconds {detail.load_level:.2f}{tried}"
    if detail.wait_s is not None:
        promise = "no promise" if detail.limit_s is None else f"limit {_ms(detail.limit_s)}"
        yield (
            f"predicted: wait {_ms(detail.wait_s)} (prefill {_ms(detail.prefill_wait_s)}, "
            f"slot {_ms(detail.slot_wait_s)}, blocks {_ms(detail.block_wait_s)}; bound {_ms(detail.bound_s)})"
        )
        late = f", of it {_ms(detail.error_s)} for late predictions" if detail.error_s else ""
        yield f"predicted: first token {_ms(detail.ttft_s)} ({promise}){late}"
    if detail.brown_out:
        yield f"brown-out step {detail.brown_out} is in force"
    if detail.displaces:
        yield f"takes the place of request {detail.displaces}"
    if detail.retry_after_s is not None:
        yield f"may come again in {detail.retry_after_s:.1f} s"
    elif not detail.taken and detail.wait_s is not None:
        yield "is asked not to come again by itself: for some time most requests have been refused"


def _placement_numbers(detail: Placed) -> Iterator[str]:
    computes = detail.prefill or detail.decode
    cached = (
        f", {detail.cached_tokens} of them cached at {computes}" if detail.cached_tokens else ", none of them cached"
    )
    yield (
        f"{detail.prompt_tokens} tokens to read{cached}; {detail.growth_tokens} expected to be written; "
        f"{detail.num_blocks} KV blocks"
    )
    yield (
        f"predicted: first token {_ms(detail.predicted_ttft_s)}, prefill {_ms(detail.predicted_prefill_s)}, "
        f"hand-over {_ms(detail.predicted_handover_s)}; {_others(detail.num_waiting)}"
    )
    if detail.own_prefill:
        agreed = "the same" if detail.own_prefill == detail.prefill else f"instead of {detail.own_prefill}"
        yield f"agreed with the other routers in {_ms(detail.asked_s)}: {agreed}"
    yield from _alternatives(detail)
    yield from _prefill_table(detail)
    yield from _decode_table(detail)
    left_out = detail.num_prefills + detail.num_decodes - len(detail.prefills) - len(detail.decodes)
    if left_out:
        yield f"{left_out} further workers were looked at and cost more"
    if detail.avoided:
        yield f"taken only if nobody else can: {', '.join(detail.avoided)}"


def _prefill_table(detail: Placed) -> list[str]:
    head = ("", "prefill worker", "queued", "compute", "for others", "sum", "cached")
    rows = [
        (
            _BEST if one.worker == detail.prefill else "",
            one.worker,
            *(_ms(seconds) for seconds in (one.queued_s, one.compute_s, one.delay_s, one.cost_s)),
            str(one.cached_tokens),
        )
        for one in detail.prefills
    ]
    return table(head, rows) if rows else []


def _decode_table(detail: Placed) -> list[str]:
    head = ("", "decode worker", "running", "free blocks", "step", "hand-over", "alone", "cached")
    rows = [
        (
            _BEST if one.worker == detail.decode else "",
            one.worker,
            str(one.num_sequences),
            str(one.free_blocks),
            *(_ms(seconds) for seconds in (one.step_s, one.handover_s, one.local_s)),
            str(one.cached_tokens),
        )
        for one in detail.decodes
    ]
    return table(head, rows) if rows else []


def _alternatives(detail: Placed) -> Iterator[str]:
    """What the other way would have cost."""
    local = min(detail.decodes, key=lambda one: one.local_s, default=None)
    if detail.prefill and local is not None and local.local_s:
        yield f"otherwise: {local.worker} alone, first token {_ms(local.local_s)} with the harm to what it runs"
    pair = detail.prefills[0] if detail.prefills else None
    if not detail.prefill and pair is not None and detail.decodes:
        handover_s = detail.decodes[0].handover_s
        yield (
            f"otherwise: {pair.worker} with {detail.decodes[0].worker}, first token "
            f"{_ms(pair.queued_s + pair.compute_s)} and hand-over {_ms(handover_s)}"
        )
    rival = next((one for one in detail.prefills if detail.prefill and one.worker != detail.prefill), None)
    if rival is not None:
        yield f"otherwise: {rival.worker}, first token {_ms(rival.queued_s + rival.compute_s)}"


def _recovery_numbers(detail: Recovery) -> Iterator[str]:
    if detail.worker:
        yield f"{detail.worker} {'died, or its stream broke' if detail.lost else 'failed, or told of it'}"
    if detail.cause == reasons.YIELDED:
        again = "when its turn comes"
    else:
        again = f"after {_ms(detail.pause_s)}" if detail.pause_s else "at once"
    yield f"{detail.emitted_tokens} tokens had been sent; it is placed again {again}"
    for words, names in (("workers", detail.avoid), ("pairs", detail.avoid_pairs)):
        if names:
            yield f"{words} to avoid: {', '.join(names)}"


def _end_numbers(detail: Finished, placed: Sequence[Placed]) -> Iterator[str]:
    attempts = "one attempt" if detail.num_attempts == 1 else f"{detail.num_attempts} attempts"
    yield (
        f"{attempts}; {detail.prompt_tokens} prompt tokens, {detail.cached_tokens} from the cache; "
        f"{detail.output_tokens} tokens written"
    )
    waited_ms = placed[0].waited_s * 1e3 if placed else 0.0
    predicted = {
        "first token": None if detail.predicted_ttft_s is None else waited_ms + detail.predicted_ttft_s * 1e3,
        "prefill": None if detail.predicted_prefill_s is None else detail.predicted_prefill_s * 1e3,
        "hand-over, not hidden": placed[0].predicted_handover_s * 1e3 if placed and placed[0].prefill else None,
    }
    measured = {
        "tokenize": detail.tokenize_ms,
        "queue": detail.queue_ms,
        "prefill": detail.prefill_ms,
        "first token": detail.ttft_ms,
        "hand-over, not hidden": detail.handover_ms,
        "first decode": detail.first_decode_ms,
        "total": detail.total_ms,
    }
    rows = [
        (name, _number(predicted.get(name)), _number(value)) for name, value in measured.items() if value is not None
    ]
    if rows:
        yield from table(("ms", "predicted", "measured"), rows)
    if detail.handover_bytes is not None:
        skipped = detail.handover_skipped_bytes or 0
        yield f"{detail.handover_bytes} bytes of KV handed over, {skipped} were at the decode worker already"


def _round_words(detail: ControllerRound) -> str:
    wish = ""
    if detail.wished_prefill is not None and detail.wished_decode is not None:
        wish = f", wished {detail.wished_prefill}:{detail.wished_decode}"
    clamps = f", held back by {'; '.join(detail.clamps)}" if detail.clamps else ""
    move = f" {detail.move}" if detail.move else ""
    return f"{detail.verdict}{move} (now {detail.current_prefill}:{detail.current_decode}{wish}{clamps})"


def _where(detail: Placed) -> str:
    if detail.prefill:
        return f"prompt on {detail.prefill}, answer on {detail.decode}"
    return f"prompt and answer on {detail.decode}"


def _others(num_waiting: int) -> str:
    return "1 other waits" if num_waiting == 1 else f"{num_waiting} others wait"


def _plain(cause: str) -> str:
    return cause.replace("_", " ")


def _ms(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:.1f} s" if seconds >= 10.0 else f"{seconds * 1e3:.1f} ms"


def _number(value_ms: float | None) -> str:
    return "-" if value_ms is None else f"{value_ms:.1f}"
