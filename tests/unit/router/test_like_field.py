"""Bugs that other systems had between router and workers, made again on ours. Named after their reports."""

import pytest

from tandem.core import reasons
from tandem.core.ids import RequestId
from tandem.core.messages import Abort, ReserveDecode, StartPrefill
from tandem.core.types import FinishReason, Outcome
from tandem.router.live import DispatcherPolicy
from tandem.router.recovery import RecoveryPolicy
from tests.unit.router.builders import D2, P2, D, P
from tests.unit.router.world import World, done, failed, handed, token

R = RequestId("r")


def aborted(world: World) -> set[object]:
    """Workers told to stop, by name and attempt."""
    return {(worker, command.attempt) for worker, command in world.sent if isinstance(command, Abort)}


@pytest.mark.parametrize("reason", [reasons.NO_BLOCKS, reasons.NO_SLOT, reasons.DRAINING])
def test_like_vllm_41269_decode_rejects_before_admission_and_prefill_is_not_left_holding(reason: str) -> None:
    """There, P kept the blocks of a request that D had refused, because nobody told it."""
    world = World(P, D)
    sink = world.submit()
    world.report(P, events=(done(),), tokens=(token(0),))
    for attempt in range(20):
        world.report(D, events=(failed(reason, attempt=attempt),))
        world.wait(1.5, alive=(P, D))
    assert sink.error is not None, "refusals are bounded"
    starts = [c for w, c in world.sent if w == P and isinstance(c, StartPrefill)]
    assert len(starts) > 3
    assert [c.reuse_attempt for c in starts[1:]] == [c.task.attempt - 1 for c in starts[1:]], "computed once"
    assert (P, starts[-1].task.attempt) in aborted(world), "and let go in the end"
    world.assert_empty()


def test_like_vllm_50425_cancelled_before_decode_has_answered_tells_both_sides() -> None:
    """There, a cancel between prefill and decode's admission reached decode alone."""
    world = World(P, D)
    world.submit()
    world.report(P, events=(done(),), tokens=(token(0),))
    world.dispatcher.cancel(R)
    assert aborted(world) == {(P, 0), (D, 0)}
    world.assert_empty()


def test_like_dynamo_13855_cancelled_while_another_decode_worker_is_looked_for() -> None:
    """There, P kept the KV when the request ended between two decode workers."""
    world = World(P, D)
    world.submit()
    world.report(P, events=(done(),), tokens=(token(0),))
    world.report(D, events=(failed(reasons.NO_BLOCKS),))
    assert (P, 0) not in aborted(world), "it is held for the next attempt"
    world.dispatcher.cancel(R)
    assert (P, 0) in aborted(world)
    world.assert_empty()


def test_like_sglang_waiting_for_kv_that_never_comes() -> None:
    """There, D waited 300 s for the KV of a prefill worker that had died after its seal."""
    world = World(P, P2, D)
    sink = world.submit()
    prefill = P if world.commands(StartPrefill, P) else P2
    world.report(prefill, events=(done(),), tokens=(token(0),))
    world.dispatcher.on_lost(prefill)
    assert (D, 0) in aborted(world)
    assert [task.attempt for task in world.tasks(ReserveDecode)] == [0, 1]
    assert sink.ends == []


def test_like_vllm_29987_cancel_in_the_last_step_is_one_end() -> None:
    """There, an abort in the last step was taken for success and pinned the blocks for 480 s."""
    world = World(P, D)
    sink = world.submit()
    world.report(P, events=(done(),), tokens=(token(0),))
    world.report(D, events=(handed(),), tokens=(token(1, finish=FinishReason.STOP),))
    world.dispatcher.cancel(R)
    world.report(D, tokens=(token(2),))
    assert [end.outcome for end in sink.ends] == [Outcome.OK]
    assert aborted(world) == {(P, 0), (D, 0)}
    world.assert_empty()


def test_like_vllm_29906_retries_do_not_amplify() -> None:
    """There, retries of timed-out hand-overs filled the memory that the timed-out ones still held."""
    policy = DispatcherPolicy(recovery=RecoveryPolicy(handover_pause_s=0.0))
    world = World(P, D, max_sequences=200, policy=policy)
    for number in range(100):
        world.submit(f"r{number}")
    for attempt in range(4):
        for number in range(100):
            world.report(D, events=(failed(reasons.KV_TIMEOUT, f"r{number}", attempt=attempt),))
        world.wait(0.5, alive=(P, D))
    num_tasks = len(world.tasks(ReserveDecode))
    assert num_tasks <= 100 + 20, f"{num_tasks - 100} retries of 100 requests"


def test_like_dynamo_migration_late_words_of_the_dead_are_dropped() -> None:
    """A zombie's tokens must not reach the client beside its successor's, nor twice."""
    world = World(P, D, D2)
    sink = world.submit(max_tokens=4)
    world.report(P, events=(done(),), tokens=(token(0),))
    first, second = (D, D2) if world.commands(ReserveDecode, D) else (D2, D)
    world.report(first, events=(handed(),), tokens=(token(1),))
    world.dispatcher.on_lost(first)
    world.report(P, events=(done(attempt=1),), tokens=(token(2, attempt=1),))
    world.report(first, tokens=(token(2), token(3, finish=FinishReason.STOP)))
    world.report(second, events=(handed(attempt=1),), tokens=(token(3, attempt=1, finish=FinishReason.STOP),))
    assert sink.tokens == [0, 1, 2, 3]
    assert [end.outcome for end in sink.ends] == [Outcome.OK]
    assert world.dispatcher.num_stale == 2
