"""The ledger of one request, transition by transition."""

from collections.abc import Callable, Sequence

import pytest

from tandem.core import reasons
from tandem.core.errors import Cancelled, DeadlineExceeded, InternalError, KvIntegrity, Overloaded, Unavailable
from tandem.core.messages import (
    ForwardGrant,
    ReserveDecode,
    StartPrefill,
)
from tandem.core.types import FinishReason, KvSource, Outcome, TokenDelta
from tandem.router.actions import Action, AttemptEnded, Ended, PromptComputed, SendCommand, Started, WorkerKey
from tandem.router.attempt import Stage
from tandem.router.ledger import MAX_HELD_DELTAS
from tandem.router.recovery import GAP, POISON
from tests.unit.router.builders import D2, P2, REQUEST, D, P, key, make_delta
from tests.unit.router.ledgers import (
    aborted,
    crash,
    ended,
    failed,
    granted,
    handed_over,
    make_ledger,
    prefill_done,
    released,
    requeued,
    running,
    stage_of,
)


def test_dispatch_tells_both_sides() -> None:
    ledger = make_ledger()
    to_p, to_d = ledger.dispatched(prefill=P, decode=D, now_s=1.0)
    assert isinstance(to_d, SendCommand)
    assert isinstance(to_p, SendCommand)
    assert (to_d.worker, to_p.worker) == (D, P)
    assert isinstance(to_d.command, ReserveDecode)
    assert to_d.command.source is KvSource.HANDOVER
    assert isinstance(to_p.command, StartPrefill)
    assert stage_of(ledger) is Stage.PREFILLING


def test_local_dispatch_tells_d_alone() -> None:
    ledger = make_ledger()
    (to_d,) = ledger.dispatched(prefill=None, decode=D, now_s=1.0)
    assert isinstance(to_d, SendCommand)
    assert isinstance(to_d.command, ReserveDecode)
    assert to_d.command.source is KvSource.LOCAL
    ledger.on_event(D, prefill_done(), 2.0)
    assert stage_of(ledger) is Stage.DECODING


def test_what_is_left_of_the_deadline_goes_with_the_task() -> None:
    ledger = make_ledger(deadline_s=10.0)
    ledger.dispatched(prefill=P, decode=D, now_s=4.0)
    assert ledger.task.deadline_left_s == pytest.approx(6.0)


def test_a_deadline_that_passed_in_the_queue_is_not_dispatched() -> None:
    ledger = make_ledger(deadline_s=3.0)
    actions = ledger.dispatched(prefill=P, decode=D, now_s=4.0)
    assert not [a for a in actions if isinstance(a, SendCommand)]
    error = ended(actions).error
    assert isinstance(error, DeadlineExceeded)
    assert error.stage == "queue"
    assert ended(actions).usage.uncached_tokens == 0, "nothing of its prompt was computed"


def test_the_stages_in_their_order() -> None:
    ledger = running()
    (started,) = [a for a in ledger.on_event(P, prefill_done(), 2.0) if isinstance(a, Started)]
    assert (started.num_prompt_tokens, started.num_cached_tokens) == (10, 4)
    assert stage_of(ledger) is Stage.SEALED
    (forward,) = ledger.on_event(D, granted(), 2.0)
    assert isinstance(forward, SendCommand)
    assert forward.worker == P
    assert forward.command == ForwardGrant(request_id=REQUEST, attempt=0, grant=b"g")
    assert stage_of(ledger) is Stage.HANDING
    ledger.on_event(D, handed_over(), 3.0)
    assert stage_of(ledger) is Stage.DECODING


def test_a_grant_before_the_prompt_is_computed_is_forwarded_at_once() -> None:
    ledger = running()
    assert len(ledger.on_event(D, granted(), 2.0)) == 1
    ledger.on_event(P, prefill_done(), 2.0)
    assert stage_of(ledger) is Stage.HANDING


def test_a_repeated_grant_and_a_grant_from_p_go_nowhere() -> None:
    ledger = running()
    ledger.on_event(D, granted(), 2.0)
    assert ledger.on_event(D, granted(), 2.0) == []
    assert ledger.on_event(P, granted(), 2.0) == ()


def test_the_prompt_is_taken_off_the_estimate_once() -> None:
    ledger = running()
    actions = ledger.on_event(P, prefill_done(), 2.0)
    assert [a for a in actions if isinstance(a, PromptComputed)] == [PromptComputed(worker=P, attempt=0)]
    assert ledger.on_event(P, prefill_done(), 2.0) == ()


def test_a_whole_request() -> None:
    ledger = running()
    ledger.on_event(D, granted(), 1.5)
    ledger.on_event(P, prefill_done(), 2.0)
    assert list(ledger.on_delta(P, make_delta(0), 2.0)) == [make_delta(0)]
    ledger.on_event(P, released(), 2.5)
    ledger.on_event(D, handed_over(), 2.5)
    ledger.on_delta(D, make_delta(1), 2.6)
    actions = ledger.on_delta(D, make_delta(2, finish=FinishReason.STOP), 3.0)
    assert isinstance(actions[0], TokenDelta)
    end = ended(actions)
    assert (end.outcome, end.error, end.num_attempts) == (Outcome.OK, None, 1)
    assert (end.usage.prompt_tokens, end.usage.cached_tokens, end.usage.output_tokens) == (10, 4, 3)
    assert end.usage.uncached_tokens == 6
    assert (end.prefill_worker_id, end.decode_worker_id) == ("prefill-0", "decode-0")
    assert aborted(actions) == [D]  # P has released; D may still hold the slot
    timings = end.timings
    assert timings.tokenize_ms == 1.0
    assert timings.queue_ms == pytest.approx(1000.0 - 1.0 + 2.0)
    assert (timings.prefill_ms, timings.handover_ms) == (30.0, 1.0)
    assert timings.first_decode_ms == pytest.approx(100.0)
    assert timings.ttft_ms == pytest.approx(2000.0)
    assert timings.total_ms == pytest.approx(3000.0)


def test_tokens_before_the_end_of_prefill_start_the_stream_first() -> None:
    actions = running().on_delta(P, make_delta(0), 2.0)
    assert isinstance(actions[0], Started)
    assert isinstance(actions[1], TokenDelta)


def test_all_children_must_finish() -> None:
    ledger = running(n=2)
    assert not [
        a for a in ledger.on_delta(P, make_delta(0, child=1, finish=FinishReason.STOP), 2.0) if isinstance(a, Ended)
    ]
    assert ended(ledger.on_delta(P, make_delta(0, child=0, finish=FinishReason.STOP), 2.0)).outcome is Outcome.OK


@pytest.mark.parametrize("how", ["cancelled", "deadline", "shed", "failed", "slow"])
def test_any_end_aborts_both_sides_and_is_the_only_one(how: str) -> None:
    ledger = running()
    ends: dict[str, Callable[[], Sequence[Action]]] = {
        "cancelled": lambda: ledger.cancelled(2.0),
        "deadline": lambda: ledger.deadline_passed(2.0),
        "shed": lambda: ledger.shed(Overloaded("full"), 2.0),
        "failed": lambda: ledger.failed(InternalError("broken"), 2.0),
        "slow": lambda: ledger.cancelled(2.0, reason=reasons.SLOW_CONSUMER),
    }
    actions = ends[how]()
    assert aborted(actions) == [P, D]
    assert [a for a in actions if isinstance(a, AttemptEnded)] == [AttemptEnded(workers=(P, D), attempt=0)]
    error = ended(actions).error
    assert error is not None
    assert error.metadata["tokens_emitted"] == "0"
    for again in ends.values():
        assert again() == ()
    assert ledger.on_delta(P, make_delta(0), 2.0) == ()
    assert ledger.on_worker_lost(P, 2.0) == ()


def test_the_deadline_error_names_the_stage() -> None:
    ledger = running()
    ledger.on_event(P, prefill_done(), 2.0)
    error = ended(ledger.deadline_passed(2.0)).error
    assert isinstance(error, DeadlineExceeded)
    assert error.stage == "transfer"


def test_a_slow_reader_is_told_so() -> None:
    error = ended(running().cancelled(2.0, reason=reasons.SLOW_CONSUMER)).error
    assert isinstance(error, Cancelled)
    assert error.reason == reasons.SLOW_CONSUMER


@pytest.mark.parametrize(
    ("source", "delta"),
    [
        (D2, make_delta(0)),  # a worker that has no part in it
        (key("decode-0", epoch=2), make_delta(0)),  # another life of one that has
        (D, make_delta(0, attempt=1)),  # an attempt that never was
        (D, make_delta(0, child=1)),  # a child that does not exist
    ],
)
def test_foreign_tokens_have_no_effect_but_a_count(source: WorkerKey, delta: TokenDelta) -> None:
    ledger = running()
    assert ledger.on_delta(source, delta, 2.0) == ()
    assert ledger.num_stale == 1
    assert ledger.num_emitted == 0


def test_tokens_of_an_earlier_attempt_have_no_effect() -> None:
    ledger = running()
    ledger.on_event(D, failed(reasons.KV_TIMEOUT), 2.0)
    ledger.dispatched(prefill=P2, decode=D2, now_s=2.0)
    assert ledger.on_delta(P, make_delta(0), 3.0) == ()
    assert ledger.on_event(P, prefill_done(), 3.0) == ()
    assert ledger.num_stale == 2


def test_a_failure_before_the_first_token_is_retried_elsewhere() -> None:
    ledger = running()
    actions = ledger.on_event(P, failed(reasons.ENGINE), 2.0)
    assert aborted(actions) == [D]  # P holds nothing any more; D must be told
    again = requeued(actions)
    assert (again.task.attempt, again.task.emitted, again.avoid) == (1, (), frozenset({P}))
    assert stage_of(ledger) is Stage.ADMITTED


def test_two_silent_retries_then_the_error() -> None:
    ledger = running()
    for attempt in range(2):
        requeued(ledger.on_event(P, failed(reasons.ENGINE, attempt=attempt), 2.0))
        ledger.dispatched(prefill=P, decode=D, now_s=2.0)
    end = ended(ledger.on_event(P, failed(reasons.ENGINE, attempt=2), 2.0))
    assert isinstance(end.error, InternalError)
    assert "x" not in end.error.message.split()  # never the worker's own words
    assert end.num_attempts == 3


def test_what_is_not_retryable_ends_the_request() -> None:
    actions = running().on_event(D, failed(reasons.NUMERICS, retryable=False), 2.0)
    end = ended(actions)
    assert end.outcome is Outcome.FAILED
    assert end.error is not None
    assert end.error.reason == reasons.NUMERICS
    assert aborted(actions) == [P]


def test_a_failed_child_ends_the_others_too() -> None:
    actions = running(n=2).on_event(D, failed(reasons.NUMERICS, retryable=False, child=1), 2.0)
    assert aborted(actions) == [P, D]  # D still holds the other child
    assert ended(actions).outcome is Outcome.FAILED


def test_a_lost_decode_worker_is_continued_from_the_emitted_tokens() -> None:
    ledger = running()
    ledger.on_delta(P, make_delta(0), 2.0)
    ledger.on_event(P, released(), 2.0)
    ledger.on_event(D, handed_over(), 2.0)
    ledger.on_delta(D, make_delta(1), 2.0)
    ledger.on_delta(D, make_delta(3), 2.0)  # held: its turn never came
    actions = ledger.on_worker_lost(D, 3.0)
    again = requeued(actions)
    assert again.task.emitted == ((0, 1),)
    assert aborted(actions) == []
    ledger.dispatched(prefill=P2, decode=D2, now_s=3.0)
    assert list(ledger.on_delta(D2, make_delta(3, attempt=1), 4.0)) == []
    assert [d.position for d in ledger.on_delta(P2, make_delta(2, attempt=1), 4.0) if isinstance(d, TokenDelta)] == [
        2,
        3,
    ]


def test_finished_children_do_not_run_again() -> None:
    ledger = running(n=2)
    ledger.on_delta(P, make_delta(0, child=0, finish=FinishReason.STOP), 2.0)
    ledger.on_delta(P, make_delta(0, child=1), 2.0)
    ledger.on_event(D, handed_over(), 2.5)
    again = requeued(ledger.on_worker_lost(D, 3.0))
    assert again.task.done_children == frozenset({0})
    assert again.task.emitted == ((0,), (1000,))


def test_a_prefill_worker_that_has_handed_over_may_die() -> None:
    ledger = running()
    ledger.on_delta(P, make_delta(0), 2.0)
    ledger.on_event(D, handed_over(), 2.0)
    assert ledger.on_worker_lost(P, 3.0) == ()
    assert list(ledger.on_delta(D, make_delta(1), 4.0)) == [make_delta(1)]


def test_a_prefill_worker_that_dies_before_the_hand_over_is_replaced() -> None:
    ledger = running()
    ledger.on_delta(P, make_delta(0), 2.0)
    actions = ledger.on_worker_lost(P, 3.0)
    assert aborted(actions) == [D]
    assert requeued(actions).task.emitted == ((0,),)


def test_poison_is_not_tried_a_third_time() -> None:
    ledger = running()
    crash(ledger, P, 2.0)
    ledger.dispatched(prefill=P2, decode=D2, now_s=2.0)
    end = ended(crash(ledger, P2, 3.0))
    assert end.error is not None
    assert end.error.reason == POISON


def test_a_worker_that_comes_back_did_not_die() -> None:
    ledger = running()
    crash(ledger, P, 2.0)
    ledger.suspicion.withdraw(P)
    ledger.dispatched(prefill=P2, decode=D2, now_s=2.0)
    requeued(crash(ledger, P2, 3.0))


def test_kv_that_does_not_verify_is_tried_once_more() -> None:
    ledger = running()
    requeued(ledger.on_event(D, failed(reasons.KV_INTEGRITY), 2.0))
    ledger.dispatched(prefill=P, decode=D, now_s=2.0)
    assert isinstance(ended(ledger.on_event(D, failed(reasons.KV_INTEGRITY, attempt=1), 3.0)).error, KvIntegrity)


def test_no_retry_after_the_deadline() -> None:
    ledger = running(deadline_s=5.0)
    end = ended(ledger.on_event(P, failed(reasons.ENGINE), 5.0))
    assert end.outcome is Outcome.DEADLINE


def test_a_worker_that_noticed_the_deadline_first_is_believed() -> None:
    end = ended(running(deadline_s=5.0).on_event(P, failed(reasons.DEADLINE, retryable=False), 4.99))
    assert end.outcome is Outcome.DEADLINE


def test_a_gap_that_stays_open_fails_the_attempt() -> None:
    ledger = running()
    ledger.on_delta(D, make_delta(1), 2.0)
    assert ledger.check_progress(6.9, gap_timeout_s=5.0) == ()
    actions = ledger.check_progress(7.0, gap_timeout_s=5.0)
    assert aborted(actions) == [P, D]
    assert requeued(actions).reason == GAP


def test_too_much_behind_a_gap_fails_the_attempt() -> None:
    ledger = running()
    for position in range(1, MAX_HELD_DELTAS + 1):
        assert ledger.on_delta(D, make_delta(position), 2.0) == ()
    assert requeued(ledger.on_delta(D, make_delta(MAX_HELD_DELTAS + 1), 2.0)).reason == GAP


def test_a_decode_worker_that_lets_go_before_the_end_is_noticed() -> None:
    ledger = running()
    ledger.on_delta(P, make_delta(0), 2.0)
    ledger.on_event(D, released(), 2.0)
    requeued(ledger.check_progress(7.0, gap_timeout_s=5.0))


def test_a_repeat_in_another_cut_fails_the_attempt_not_the_router() -> None:
    ledger = running()
    ledger.on_delta(P, make_delta(0, num_tokens=3), 2.0)
    assert requeued(ledger.on_delta(D, make_delta(2, num_tokens=2), 2.0)).reason == reasons.ENGINE


def test_lost_workers_after_every_continuation_end_with_a_named_error() -> None:
    ledger = running()
    ledger.on_delta(P, make_delta(0), 2.0)
    for attempt in range(4):
        requeued(ledger.on_event(D, failed(reasons.KV_PEER_LOST, attempt=attempt), 2.0))
        ledger.dispatched(prefill=P, decode=D, now_s=2.0)
    end = ended(ledger.on_event(D, failed(reasons.KV_PEER_LOST, attempt=4), 2.0))
    assert isinstance(end.error, Unavailable)
    assert (end.error.reason, end.error.metadata["tokens_emitted"]) == (reasons.WORKER_LOST, "1")
