"""The dispatcher with recorded commands and a clock that moves when told."""

from dataclasses import replace

import pytest

from tandem.core import reasons
from tandem.core.errors import DeadlineExceeded, InvalidArgument, Overloaded, Unavailable
from tandem.core.ids import Epoch, RequestId
from tandem.core.messages import (
    Abort,
    AttemptReleased,
    Granted,
    ReserveDecode,
    StartPrefill,
    StepReport,
)
from tandem.core.types import FinishReason, KvSource, Outcome, Role
from tandem.router.actions import WorkerKey
from tandem.router.live import DispatcherPolicy
from tests.unit.router.builders import D2, D, P, make_info
from tests.unit.router.world import Sink, World, done, failed, handed, token


def test_a_request_goes_out_at_once_and_comes_back_whole() -> None:
    world = World(P, D)
    sink = world.submit()
    assert [type(command) for _, command in world.sent] == [StartPrefill, ReserveDecode]
    world.report(D, events=(Granted(request_id=RequestId("r"), attempt=0, grant=b"g"),))
    world.report(P, events=(done(),), tokens=(token(0),))
    world.report(D, events=(handed(),), tokens=(token(1),))
    world.report(D, tokens=(token(2, finish=FinishReason.STOP),))
    assert sink.tokens == [0, 1, 2]
    assert len(sink.started) == 1
    assert sink.ends[0].outcome is Outcome.OK
    assert world.dispatcher.num_ended[Outcome.OK] == 1
    world.assert_empty()


def test_in_flight_estimates_prevent_herding() -> None:
    world = World(P, D, D2)
    for index in range(4):
        world.submit(f"r{index}")
    chosen = [worker for worker, command in world.sent if isinstance(command, ReserveDecode)]
    assert sorted(w.worker_id for w in chosen) == ["decode-0", "decode-0", "decode-1", "decode-1"]


def test_a_full_decode_pool_makes_requests_wait_until_one_ends() -> None:
    world = World(P, D, max_sequences=1)
    first, second = world.submit("a"), world.submit("b")
    assert len(world.tasks(StartPrefill)) == 1
    assert "slot" in world.dispatcher.last_no_capacity
    world.report(P, events=(done("a"),), tokens=(token(0, "a", finish=FinishReason.STOP),))
    assert first.ends
    assert [task.request_id for task in world.tasks(StartPrefill)] == ["a", "b"]
    assert second.ends == []


def test_a_cancelled_request_leaves_the_queue_and_lets_the_next_one_in() -> None:
    world = World(P, D, max_sequences=1)
    world.submit("a")
    waiting = world.submit("b")
    world.submit("c")
    world.dispatcher.cancel(RequestId("b"))
    assert waiting.ends[0].outcome is Outcome.CANCELLED
    world.dispatcher.cancel(RequestId("a"))
    assert [a.request_id for a in world.commands(Abort, P) if isinstance(a, Abort)] == ["a"]
    assert [task.request_id for task in world.tasks(StartPrefill)] == ["a", "c"]
    world.dispatcher.cancel(RequestId("never-seen"))


def test_the_deadline_ends_a_queued_and_a_running_request() -> None:
    world = World(P, D, max_sequences=1)
    running = world.submit("a", deadline_in_s=2.0)
    queued = world.submit("b", deadline_in_s=1.0)
    world.wait(1.0, alive=(P, D))
    assert isinstance(queued.error, DeadlineExceeded)
    assert queued.error.stage == "queue"
    world.wait(1.0, alive=(P, D))
    assert isinstance(running.error, DeadlineExceeded)
    assert len(world.commands(Abort, P)) == len(world.commands(Abort, D)) == 1
    world.assert_empty()


def test_a_deadline_that_passes_at_the_very_dispatch_leaves_nothing_in_flight() -> None:
    world = World(P, D, max_sequences=1)
    running = world.submit("a")
    late = world.submit("b", deadline_in_s=1.0)
    world.clock.time_s += 1.0  # no tick yet: room comes first
    world.report(D, tokens=(token(0, "a", finish=FinishReason.STOP),))
    assert running.error is None
    assert isinstance(late.error, DeadlineExceeded)
    world.assert_empty()


def test_no_worker_at_all_is_told_after_a_while() -> None:
    world = World()
    sink = world.submit()
    world.wait(14.9)
    assert sink.ends == []
    world.wait(0.5)
    assert isinstance(sink.error, Unavailable)
    assert sink.error.reason == "NO_WORKER"
    assert sink.ends[0].outcome is Outcome.SHED
    world.assert_empty()


def test_a_worker_that_joins_in_time_serves_who_waits() -> None:
    world = World()
    world.submit()
    world.dispatcher.fleet.apply([make_info("decode-0", Role.DECODE)])
    world.dispatcher.on_attached(D)
    (command,) = world.commands(ReserveDecode, D)
    assert isinstance(command, ReserveDecode)
    assert command.source is KvSource.LOCAL


def test_nobody_waits_in_the_queue_for_ever() -> None:
    world = World(P, D, max_sequences=1, policy=DispatcherPolicy(max_queue_wait_s=3.0))
    world.submit("a")
    waiting = world.submit("b")
    world.wait(3.0, alive=(P, D))
    assert isinstance(waiting.error, Overloaded)
    assert waiting.ends[0].outcome is Outcome.SHED


def test_what_can_never_fit_fails_at_once() -> None:
    world = World(P, D)
    sink = world.submit(prompt=16 * 1000, max_tokens=100)
    assert isinstance(sink.error, InvalidArgument)
    assert sink.error.reason == reasons.TOO_LARGE
    world.assert_empty()


def test_a_draining_router_takes_nothing() -> None:
    world = World(P, D)
    world.dispatcher.draining = True
    with pytest.raises(Unavailable):
        world.submit()


def test_a_lost_decode_worker_is_replaced_in_mid_stream() -> None:
    world = World(P, D, D2)
    sink = world.submit()
    world.report(P, events=(done(),), tokens=(token(0),))
    world.report(D, events=(handed(),), tokens=(token(1),))
    world.dispatcher.on_lost(D)
    again = world.tasks(StartPrefill)[-1]
    assert (again.attempt, again.emitted) == (1, ((0, 1),))
    assert [w for w, c in world.sent if isinstance(c, ReserveDecode)] == [D, D2]
    world.report(D, tokens=(token(2),))  # a late word of the dead
    world.report(P, events=(done(attempt=1),), tokens=(token(2, attempt=1),))
    world.report(D2, events=(handed(attempt=1),), tokens=(token(3, attempt=1, finish=FinishReason.STOP),))
    assert sink.tokens == [0, 1, 2, 3]
    assert sink.ends[0].num_attempts == 2
    assert world.dispatcher.num_stale == 1
    world.assert_empty()


def test_several_sequences_are_continued_on_one_worker() -> None:
    world = World(P, D, D2)
    world.submit(n=2)
    world.report(P, events=(done(),), tokens=(token(0), token(0, child=1)))
    world.report(D, events=(handed(),))
    world.dispatcher.on_lost(D)
    (command,) = world.commands(ReserveDecode, D2)
    assert isinstance(command, ReserveDecode)
    assert command.source is KvSource.LOCAL
    assert command.task.emitted == ((0,), (1000,))


def test_a_silent_worker_is_found_dead_and_its_requests_go_elsewhere() -> None:
    world = World(P, D, D2)
    world.submit()
    assert world.wait(9.75, alive=(P, D2)) == []
    assert world.wait(0.25, alive=(P, D2)) == [D]
    assert len(world.commands(ReserveDecode, D2)) == 1


def test_a_broken_stream_that_comes_back_is_no_death() -> None:
    world = World(P, D, D2)
    sink = world.submit()
    world.dispatcher.on_lost(D)
    world.dispatcher.on_attached(D)
    world.dispatcher.on_lost(D2)
    assert sink.ends == []
    assert len(world.tasks(ReserveDecode)) == 3


def test_a_refusal_is_tried_again_after_a_pause() -> None:
    world = World(P, D)
    world.submit()
    world.report(D, events=(failed(reasons.NO_BLOCKS),))
    assert len(world.tasks(StartPrefill)) == 1
    world.wait(0.25, alive=(P, D))
    assert [task.attempt for task in world.tasks(StartPrefill)] == [0, 1]


def test_a_cancel_during_the_pause_ends_it() -> None:
    world = World(P, D)
    world.submit()
    world.report(D, events=(failed(reasons.NO_BLOCKS),))
    world.dispatcher.cancel(RequestId("r"))
    world.wait(1.0, alive=(P, D))
    assert len(world.tasks(StartPrefill)) == 1
    world.assert_empty()


def test_a_caller_who_reads_too_slowly_is_ended_and_both_sides_are_told() -> None:
    world = World(P, D)
    sink = world.submit(sink=Sink(room=2))
    world.report(P, events=(done(),), tokens=(token(0),))
    world.report(D, tokens=(token(1), token(2), token(3)))
    assert sink.error is not None
    assert sink.error.reason == reasons.SLOW_CONSUMER
    assert len(world.commands(Abort, D)) == 1
    assert len(sink.deltas) == 3  # nothing after the overflow
    world.assert_empty()


def test_an_overflow_by_the_very_last_token_is_no_failure() -> None:
    world = World(P, D)
    sink = world.submit(sink=Sink(room=0))
    world.report(P, events=(done(),), tokens=(token(0, finish=FinishReason.STOP),))
    assert sink.ends[0].outcome is Outcome.OK


def test_silence_is_filled_with_keep_alives() -> None:
    world = World(P, D)
    sink = world.submit()
    world.wait(11.0, alive=(P, D))
    assert sink.num_keep_alives == 2
    world.report(P, events=(done(),), tokens=(token(0),))
    world.wait(3.75, alive=(P, D))
    assert sink.num_keep_alives == 2


def test_a_missing_first_token_is_noticed() -> None:
    world = World(P, D)
    world.submit()
    world.report(D, events=(handed(),), tokens=(token(1),))
    world.wait(6.5, alive=(P, D))
    assert [task.attempt for task in world.tasks(StartPrefill)] == [0, 1]


def test_a_decode_worker_that_lets_go_is_noticed() -> None:
    world = World(P, D)
    world.submit()
    world.report(P, events=(done(),), tokens=(token(0),))
    world.report(D, events=(AttemptReleased(request_id=RequestId("r"), attempt=0),))
    world.wait(6.5, alive=(P, D))
    assert [task.emitted for task in world.tasks(StartPrefill)] == [(), ((0,),)]


def test_release_and_last_tokens_in_one_report_complete_the_request() -> None:
    world = World(P, D)
    sink = world.submit()
    world.report(P, events=(done(),), tokens=(token(0),))
    released = AttemptReleased(request_id=RequestId("r"), attempt=0)
    world.report(D, events=(handed(), released), tokens=(token(1, finish=FinishReason.STOP),))
    assert sink.ends[0].outcome is Outcome.OK
    assert world.commands(Abort, D) == []


def test_reports_of_another_life_are_counted_and_dropped() -> None:
    world = World(P, D)
    sink = world.submit()
    stale = StepReport(worker_epoch=P.epoch, sequence=1, tokens=(token(0),), events=(done(),))
    world.dispatcher.on_report(WorkerKey(worker_id=P.worker_id, epoch=Epoch(D.epoch + 7)), stale)
    assert sink.deltas == []
    assert world.dispatcher.num_stale == 2
    world.dispatcher.on_report(P, replace(stale, worker_epoch=Epoch(P.epoch + 7)))
    assert sink.deltas == []
    assert world.dispatcher.num_stale == 4


def test_a_worker_that_left_the_directory_is_lost() -> None:
    world = World(P, D, D2)
    world.submit()
    world.dispatcher.on_directory(world.dispatcher.fleet.apply([make_info("decode-0", Role.DECODE, epoch=5)]))
    assert len(world.commands(ReserveDecode, D2)) == 1


def test_stopping_ends_everybody_once() -> None:
    world = World(P, D, max_sequences=1)
    sinks = [world.submit("a"), world.submit("b")]
    world.dispatcher.fail_all(Unavailable("stopping"))
    assert [len(sink.ends) for sink in sinks] == [1, 1]
    world.assert_empty()


def test_expected_lengths_are_learnt() -> None:
    world = World(P, D)
    for index in range(30):
        world.submit(f"r{index}", max_tokens=200, sink=Sink())
        world.report(P, events=(done(f"r{index}"),), tokens=(token(0, f"r{index}", finish=FinishReason.STOP),))
    world.submit("last", max_tokens=200)
    record = world.dispatcher.fleet.get(D)
    assert record is not None
    assert record.in_flight.num_blocks < 4  # at first 200 tokens would have been reserved: 14 blocks


def test_a_router_that_stood_still_blames_nobody_for_its_own_silence() -> None:
    world = World(P, D)
    sink = world.submit()
    world.report(D, events=(handed(),), tokens=(token(1),))  # held: P's first token is on its way
    world.clock.time_s += 30.0
    assert world.dispatcher.step() == []
    assert world.wait(0.25, alive=(P, D)) == []
    world.report(P, events=(done(),), tokens=(token(0),))
    assert sink.tokens == [0, 1]
    assert len(world.tasks(StartPrefill)) == 1
