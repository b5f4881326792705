"""The dispatcher when workers die, are cut off or raise: who is blamed, who waits apart, who is held."""

import pytest

from tandem.core import reasons
from tandem.core.errors import Overloaded, Unavailable
from tandem.core.ids import RequestId
from tandem.core.messages import AttemptReleased, Granted, ReserveDecode, StartPrefill
from tandem.core.types import Role, WorkerLoad
from tandem.router.live import DispatcherPolicy
from tests.unit.router.builders import D2, P2, D, P, make_info
from tests.unit.router.world import World, done, failed, handed, token


def test_a_request_that_kills_two_workers_is_poison() -> None:
    world = World(P, P2, D)
    sink = world.submit()
    world.dispatcher.on_lost(P)
    world.dispatcher.on_lost(P2)
    world.wait(9.75, alive=(D,))
    assert sink.ends == [], "both may be alive behind a cut"
    assert len(world.tasks(StartPrefill)) == 2
    assert world.commands(ReserveDecode, D)[2:] == [], "a third worker is not risked for it"
    world.wait(0.25, alive=(D,))
    assert sink.error is not None
    assert sink.error.reason == "POISON_REQUEST"
    world.assert_empty()


def test_a_next_life_makes_a_death_sure_at_once() -> None:
    world = World(P, P2, D)
    sink = world.submit()
    for worker in (P, P2):
        world.dispatcher.on_lost(worker)
    for worker in (P, P2):
        assert sink.ends == []
        world.restart(worker)
    assert sink.error is not None
    assert sink.error.reason == "POISON_REQUEST"


def test_a_worker_out_of_sight_is_not_dead_for_sure() -> None:
    world = World(P, P2, D)
    sink = world.submit()
    for worker in (P, P2):
        world.dispatcher.on_lost(worker)
    world.dispatcher.on_directory(world.dispatcher.fleet.apply([make_info("decode-0", Role.DECODE)]))
    world.wait(9.75, alive=(D,))
    assert sink.ends == []
    world.wait(0.25, alive=(D,))
    assert sink.error is not None
    assert sink.error.reason == "POISON_REQUEST", "nobody beats for it any more, but the doubt is over"


def test_who_may_have_killed_a_second_worker_is_not_placed_before_there_is_word_of_it() -> None:
    """The peer tells of the second death long before the dead worker's own stream breaks."""
    world = World(P, P2, D)
    sink = world.submit()
    world.dispatcher.on_lost(P)
    world.report(D, events=(failed(reasons.KV_PEER_LOST, attempt=1),))
    num_sent = len(world.sent)
    world.wait(1.75, alive=(P2, D))
    assert world.dispatcher.crashes.num_isolated == 1
    world.dispatcher.on_lost(P2)
    world.wait(5.0, alive=(D,))
    assert len(world.sent) == num_sent, "no third worker is risked"
    assert world.dispatcher.crashes.num_isolated == 1
    for worker in (P, P2):
        world.restart(worker)
    assert sink.error is not None
    assert sink.error.reason == "POISON_REQUEST"
    world.assert_empty()


@pytest.mark.parametrize("answers", [True, False])
def test_a_worker_that_was_only_out_of_its_peers_sight_holds_nobody_up_for_long(answers: bool) -> None:
    world = World(P, P2, D, D2)
    world.submit()
    world.dispatcher.on_lost(P)
    decode = [w for w, c in world.sent if isinstance(c, ReserveDecode)][-1]
    world.report(decode, events=(failed(reasons.KV_PEER_LOST, attempt=1),))
    if answers:
        world.report(P2, events=(AttemptReleased(request_id=RequestId("r"), attempt=1),))
    world.wait(0.5, alive=(P2, D, D2))
    assert [t.attempt for t in world.tasks(StartPrefill)] == [0, 1, 2][: 3 if answers else 2]
    world.wait(2.0, alive=(P2, D, D2))
    assert [t.attempt for t in world.tasks(StartPrefill)] == [0, 1, 2]
    assert world.dispatcher.crashes.num_isolated == 0


def test_a_first_death_that_only_the_peer_tells_of_holds_nobody_up() -> None:
    world = World(P, P2, D)
    world.submit()
    world.report(D, events=(failed(reasons.KV_PEER_LOST),))
    world.wait(0.25, alive=(P, P2, D))
    assert [t.attempt for t in world.tasks(StartPrefill)] == [0, 1]


@pytest.mark.parametrize("whole", [True, False])
def test_a_decode_worker_that_dies_with_a_whole_prompt_may_have_died_of_it(whole: bool) -> None:
    """It dies in its first step, before anybody has heard that the hand-over is over."""
    world = World(P, D, D2)
    sink = world.submit()
    for attempt in (0, 1):
        decode = [w for w, c in world.sent if isinstance(c, ReserveDecode)][-1]
        world.report(decode, events=(Granted(request_id=RequestId("r"), attempt=attempt, grant=b"g"),))
        if whole:
            world.report(P, events=(done(attempt=attempt),))
        world.report(P, events=(failed(reasons.KV_PEER_LOST, attempt=attempt),))
        world.wait(0.25, alive=(P, D, D2))
        world.dispatcher.on_lost(decode)
    num_sent = len(world.sent)
    for worker in (D, D2):
        world.restart(worker)
    world.wait(0.5, alive=(P,))
    assert (sink.error is not None and sink.error.reason == "POISON_REQUEST") is whole
    assert num_sent == len(world.sent) or not whole


def test_two_cuts_by_the_network_are_no_deaths() -> None:
    """Alone at its place both times; its workers live on, so it is tried again and not condemned."""
    world = World(P, P2, D)
    sink = world.submit()
    world.dispatcher.on_lost(P)
    world.dispatcher.on_lost(P2)
    world.wait(5.0, alive=(D,))
    assert [t.attempt for t in world.tasks(StartPrefill)] == [0, 1]
    world.dispatcher.on_attached(P2)
    assert [t.attempt for t in world.tasks(StartPrefill)] == [0, 1, 2]
    world.wait(6.0, alive=(P2, D))
    assert sink.ends == []
    world.report(P2, events=(done(attempt=2),), tokens=(token(0, attempt=2),))
    assert sink.tokens == [0]


def test_a_worker_that_was_given_up_and_comes_back_did_not_die() -> None:
    world = World(P, P2, D)
    sink = world.submit()
    world.dispatcher.on_lost(P)
    world.wait(11.0, alive=(P2, D))
    world.dispatcher.on_attached(P)
    world.dispatcher.on_lost(P2)
    world.wait(11.0, alive=(P, D))
    assert sink.ends == []


def test_a_step_that_raised_is_no_cut() -> None:
    world = World(P, P2, D)
    sink = world.submit()
    for attempt in range(2):
        worker = [w for w, c in world.sent if isinstance(c, StartPrefill)][-1]
        world.report(worker, events=(failed(reasons.ENGINE, attempt=attempt),))
    assert sink.error is not None
    assert sink.error.reason == "POISON_REQUEST"


def test_a_suspect_that_can_not_be_placed_keeps_the_other_suspects_waiting_for_moments_only() -> None:
    """The first in turn needs more slots than are free at present; the one behind it fits."""
    world = World(P, D)
    sinks = [world.submit("big", n=4), world.submit("small")]
    world.report(D, load=WorkerLoad(free_blocks=1000, total_blocks=1000, num_running=6))
    _crash_of_both(world)
    world.wait(1.75, alive=(P,))
    assert len(world.tasks(ReserveDecode)) == 2
    world.wait(0.5, alive=(P,))
    assert [t.request_id for t in world.tasks(ReserveDecode)][2:] == ["small"]
    world.report(
        P, events=(done("small", attempt=1),), tokens=(token(0, "small", attempt=1), token(1, "small", attempt=1))
    )
    world.report(D, load=WorkerLoad(free_blocks=1000, total_blocks=1000))
    world.wait(0.25, alive=(P, D))
    assert [t.request_id for t in world.tasks(ReserveDecode)][3:] == ["big"], "its turn comes again"
    assert [sink.ends for sink in sinks] == [[], []]


def test_a_suspect_that_waits_apart_is_given_up_in_time() -> None:
    """It is in no queue while it waits for its turn; still its wait is bounded."""
    world = World(P, D, policy=DispatcherPolicy(max_queue_wait_s=1.5))
    sinks = {name: world.submit(name) for name in ("poison", "mate")}
    _crash_of_both(world)
    assert world.dispatcher.crashes.num_isolated == 1
    world.wait(1.25, alive=(P, D))
    assert sinks["mate"].ends == []
    world.wait(0.5, alive=(P, D))
    assert isinstance(sinks["mate"].error, Overloaded | Unavailable)
    assert sinks["poison"].ends == [], "it has its workers"


def _crash_of_both(world: World) -> None:
    names = [task.request_id for task in world.tasks(ReserveDecode)]
    workers = [w for w, c in world.sent if isinstance(c, StartPrefill)]
    assert len(set(workers)) == 1, "both are in one step"
    world.report(workers[0], events=tuple(failed(reasons.ENGINE, name) for name in names))


def test_a_death_that_the_peer_tells_first_counts_as_one() -> None:
    """The hand-over's other end may notice before the dead worker's own stream breaks."""
    world = World(P, P2, D)
    sink = world.submit()
    world.report(D, events=(failed(reasons.KV_PEER_LOST),))
    assert sink.ends == []
    world.wait(0.05)
    world.dispatcher.on_lost(P)
    world.wait(0.5, alive=(P2, D))
    world.dispatcher.on_lost(P2)
    num_sent = len(world.sent)
    world.wait(10.5, alive=(D,))
    assert sink.error is not None
    assert sink.error.reason == "POISON_REQUEST"
    assert not any(isinstance(c, ReserveDecode) for _, c in world.sent[num_sent:])


def test_a_second_death_that_the_peer_tells_first_ends_the_request_before_it_is_placed_again() -> None:
    world = World(P, P2, D, D2)
    sink = world.submit()
    world.dispatcher.on_lost(P)
    (task,) = [t for t in world.tasks(StartPrefill) if t.attempt == 1]
    decode = D if world.commands(ReserveDecode, D) else D2
    world.report(decode, events=(failed(reasons.KV_PEER_LOST, attempt=task.attempt),))
    world.dispatcher.on_lost(P2)
    num_sent = len(world.sent)
    world.wait(10.5, alive=(D,))
    assert sink.error is not None
    assert sink.error.reason == "POISON_REQUEST"
    assert not any(isinstance(c, ReserveDecode) for _, c in world.sent[num_sent:])


def test_a_peer_that_was_missed_long_before_it_died_says_nothing_of_the_request() -> None:
    world = World(P, P2, D)
    sink = world.submit()
    world.report(D, events=(failed(reasons.KV_PEER_LOST),))
    world.wait(2.5, alive=(P, P2, D))
    world.dispatcher.on_lost(P)
    world.dispatcher.on_lost(P2)
    assert sink.ends == []


def test_a_step_that_raised_is_a_crash_of_those_in_it() -> None:
    """The batch fails together; the mate goes on, and who fails each time is named after the second."""
    world = World(P, D)
    sinks = {name: world.submit(name) for name in ("poison", "mate")}
    for name in sinks:
        world.report(P, events=(done(name),), tokens=(token(0, name),))
        world.report(D, events=(handed(name),))
    world.report(D, events=tuple(failed(reasons.ENGINE, name) for name in sinks))
    world.wait(0.25, alive=(P, D))
    assert [task.request_id for task in world.tasks(ReserveDecode)] == ["poison", "mate", "poison"], (
        "suspects take turns"
    )
    world.report(D, events=(handed("poison", attempt=1),))
    world.report(D, events=(failed(reasons.ENGINE, "poison", attempt=1),))
    assert sinks["poison"].error is not None
    assert sinks["poison"].error.reason == "POISON_REQUEST"
    world.wait(0.25, alive=(P, D))
    assert [task.request_id for task in world.tasks(ReserveDecode)][3:] == ["mate"]
    assert sinks["mate"].ends == []
