"""KV that P still holds is handed over again, and let go of exactly once."""

import pytest

from tandem.core import reasons
from tandem.core.ids import RequestId
from tandem.core.messages import Abort, AttemptFailed, AttemptReleased, Command, ReserveDecode, StartPrefill
from tandem.core.types import FinishReason, KvSource
from tandem.router.actions import WorkerKey
from tests.unit.router.builders import D2, P2, D, P
from tests.unit.router.world import World, done, failed, handed, token

R = RequestId("r")


def starts(world: World, worker: WorkerKey) -> list[StartPrefill]:
    return [c for w, c in world.sent if w == worker and isinstance(c, StartPrefill)]


def aborts(world: World, worker: WorkerKey) -> list[int]:
    return [c.attempt for w, c in world.sent if w == worker and isinstance(c, Abort)]


def reserved(world: World) -> list[tuple[WorkerKey, Command]]:
    return [(w, c) for w, c in world.sent if isinstance(c, ReserveDecode)]


def held(attempt: int = 0, reason: str = reasons.KV_PEER_LOST) -> AttemptFailed:
    return AttemptFailed(request_id=R, attempt=attempt, reason=reason, message="", retryable=True, held=True)


def gone(attempt: int = 0) -> AttemptReleased:
    return AttemptReleased(request_id=R, attempt=attempt)


def other(worker: WorkerKey) -> WorkerKey:
    return D2 if worker == D else D


def test_decode_dies_before_it_has_the_kv_and_the_kv_goes_elsewhere() -> None:
    world = World(P, D, D2)
    sink = world.submit(n=2)
    first = reserved(world)[0][0]
    world.report(P, events=(done(),), tokens=(token(0), token(0, child=1)))
    world.dispatcher.on_lost(first)
    again = starts(world, P)[1]
    assert (again.reuse_attempt, again.task.attempt, again.task.emitted) == (0, 1, ())
    assert aborts(world, P) == []
    worker, command = reserved(world)[1]
    assert worker == other(first)
    assert isinstance(command, ReserveDecode)
    assert command.source is KvSource.HANDOVER, "several sequences too: nothing was decoded yet"
    # P says its first tokens again, under the new attempt; the client has them.
    world.report(P, events=(gone(), done(attempt=1)), tokens=(token(0, attempt=1), token(0, child=1, attempt=1)))
    stop = FinishReason.STOP
    world.report(
        worker,
        events=(handed(attempt=1),),
        tokens=(token(1, attempt=1, finish=stop), token(1, child=1, attempt=1, finish=stop)),
    )
    assert [(d.child, d.position) for d in sink.deltas] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert sink.ends[0].error is None
    world.assert_empty()


def test_first_tokens_that_had_not_come_yet_come_with_the_second_hand_over() -> None:
    world = World(P, D, D2)
    sink = world.submit()
    first = reserved(world)[0][0]
    world.dispatcher.on_lost(first)
    world.report(P, tokens=(token(0),), events=(done(),))  # of attempt 0, too late
    assert sink.tokens == []
    world.report(P, events=(done(attempt=1),), tokens=(token(0, attempt=1),))
    assert sink.tokens == [0]


def test_prefill_that_noticed_first_is_asked_again_elsewhere_and_the_pair_is_judged() -> None:
    world = World(P, D, D2)
    world.submit()
    first = reserved(world)[0][0]
    world.report(P, events=(done(), held()), tokens=(token(0),))
    assert aborts(world, first) == [0]
    world.wait(0.25, alive=(P, D, D2))
    assert starts(world, P)[1].reuse_attempt == 0
    assert reserved(world)[1][0] == other(first)
    assert len(world.dispatcher.pairs) == 1


def test_with_one_decode_worker_left_that_can_not_be_reached_it_computes_itself() -> None:
    world = World(P, D)
    world.submit()
    world.report(P, events=(done(),), tokens=(token(0),))
    world.report(P, events=(held(reason=reasons.KV_TIMEOUT),))
    world.wait(0.25, alive=(P, D))
    assert len(starts(world, P)) == 1
    assert aborts(world, P) == [0], "what it holds is of no use any more"
    _, command = reserved(world)[1]
    assert isinstance(command, ReserveDecode)
    assert (command.source, command.task.emitted) == (KvSource.LOCAL, ((0,),))


@pytest.mark.parametrize("how", ["released", "failed", "lost"])
def test_what_is_not_held_any_more_is_computed_again_from_what_the_client_has(how: str) -> None:
    world = World(P, P2, D)
    world.submit()
    prefill = P if starts(world, P) else P2
    world.report(prefill, events=(done(),), tokens=(token(0),))
    world.dispatcher.on_lost(D)  # nobody is left to decode: the request waits
    if how == "lost":
        world.dispatcher.on_lost(prefill)
    else:
        event = (
            gone()
            if how == "released"
            else AttemptFailed(request_id=R, attempt=0, reason=reasons.DEADLINE, message="", retryable=False)
        )
        world.report(prefill, events=(event,))
    world.dispatcher.on_attached(D)
    _, command = reserved(world)[1]
    assert isinstance(command, ReserveDecode)
    assert command.task.emitted == ((0,),)
    assert all(start.reuse_attempt is None for worker in (P, P2) for start in starts(world, worker))


def test_prefill_that_has_forgotten_it_is_no_end_and_nobody_s_fault() -> None:
    world = World(P, D, D2)
    world.submit()
    first = reserved(world)[0][0]
    world.report(P, events=(done(),), tokens=(token(0),))
    world.dispatcher.on_lost(first)
    world.report(P, events=(failed(reasons.KV_NOT_HELD, attempt=1),))
    assert aborts(world, other(first)) == [1]
    world.wait(0.25, alive=(P, D, D2))
    last = starts(world, P)[-1]
    assert (last.reuse_attempt, last.task.attempt, last.task.emitted) == (None, 2, ((0,),))


def test_a_request_that_ends_meanwhile_lets_go_of_what_is_held() -> None:
    world = World(P, D)
    world.submit()
    world.report(P, events=(done(),), tokens=(token(0),))
    world.dispatcher.on_lost(D)
    assert aborts(world, P) == []
    world.dispatcher.cancel(R)
    assert aborts(world, P) == [0]
    world.assert_empty()


def test_kv_that_may_be_bad_is_not_handed_over_again() -> None:
    world = World(P, D, D2)
    world.submit()
    first = reserved(world)[0][0]
    world.report(P, events=(done(),), tokens=(token(0),))
    world.report(first, events=(failed(reasons.KV_INTEGRITY),))
    assert aborts(world, P) == [0]
    world.wait(0.25, alive=(P, D, D2))
    assert starts(world, P)[1].reuse_attempt is None


def test_once_decoding_has_begun_prefill_s_copy_is_let_go() -> None:
    world = World(P, D)
    world.submit()
    world.report(P, events=(done(),), tokens=(token(0),))
    world.report(D, events=(handed(),))
    world.report(P, events=(held(),))
    assert aborts(world, P) == [0]
    assert len(reserved(world)) == 1
