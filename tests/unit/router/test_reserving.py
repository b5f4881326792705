"""Placements that wait for the routers' shared reservations: every way out of the wait, and what is released when."""

from dataclasses import replace

import pytest

from tandem.core import reasons
from tandem.core.errors import Unavailable
from tandem.core.latency import LatencyCoefficients
from tandem.core.messages import Abort, ReserveDecode, StartPrefill
from tandem.core.traffic import Guidance
from tandem.core.types import FinishReason, Outcome, PriorityClass
from tandem.router.live import DispatcherPolicy
from tandem.router.placement import PlacementMode, PlacementPolicy
from tandem.router.sharing import SharingMode, SharingPolicy
from tests.fakes.reserver import Book, FakeReserver
from tests.unit.router.builders import D2, P2, D, P, key
from tests.unit.router.cached import hold, make_cache_view, stored
from tests.unit.router.sharing_world import ON, finish, prefilled, seen, world
from tests.unit.router.world import World, done, failed, handed, token

# --- whether to ask --------------------------------------------------------------------------------------------------


def test_a_single_router_asks_nobody_and_a_second_one_changes_that() -> None:
    reserver = FakeReserver()
    made = world(reserver=reserver, sharing=SharingPolicy())
    made.submit("alone")
    assert prefilled(made) == [("prefill-0", "alone")]
    made.dispatcher.admitting.follow(Guidance(term=1, borrow_share=0.0, ttl_s=1.0, num_routers=2), 0.0)
    made.submit("both")
    assert len(prefilled(made)) == 1
    assert [asking.ticket.request_id for asking in reserver.asked] == ["both"]
    made.dispatcher.admitting.follow(Guidance(term=1, borrow_share=0.0, ttl_s=1.0, num_routers=1), 0.0)
    made.submit("alone again")
    assert len(prefilled(made)) == 2
    assert len(reserver.asked) == 1


def test_switched_off_or_without_a_way_there_nobody_asks() -> None:
    reserver = FakeReserver()
    made = world(reserver=reserver, sharing=SharingPolicy(mode=SharingMode.OFF))
    made.dispatcher.admitting.follow(Guidance(term=1, borrow_share=0.0, ttl_s=1.0, num_routers=9), 0.0)
    made.submit("r")
    assert len(prefilled(made)) == 1
    assert (reserver.asked, reserver.told) == ([], [])
    without = World(P, P2, D, policy=DispatcherPolicy(sharing=ON))
    without.submit("r")
    assert len(prefilled(without)) == 1


def test_with_one_prefill_worker_there_is_nothing_to_agree_on() -> None:
    reserver = FakeReserver()
    made = world(P, D, reserver=reserver)
    made.submit("r")
    assert len(prefilled(made)) == 1
    assert (reserver.asked, reserver.told) == ([], [])


def test_who_has_no_choice_goes_at_once_and_is_seen_by_the_others() -> None:
    reserver = FakeReserver()
    made = world(reserver=reserver, look_ahead_s=0.05)
    made.submit("a")
    reserver.answer(P)
    made.submit("b")
    assert prefilled(made) == [("prefill-0", "a"), ("prefill-1", "b")], "prefill-0 has its look-ahead full"
    assert [(ticket.request_id, one.worker, one.load_s) for ticket, one in reserver.told] == [("b", P2, 0.1)]
    finish(made, "b", P2)
    finish(made, "a", P)
    assert reserver.book.num_reservations == 0
    made.assert_empty()


# --- the wait and its ends -------------------------------------------------------------------------------------------


def test_nothing_is_sent_before_the_answer_and_then_to_the_worker_that_is_reserved() -> None:
    reserver = FakeReserver()
    made = world(reserver=reserver)
    made.submit("r")
    (asking,) = reserver.asked
    assert [one.worker for one in asking.candidates] == [P, P2]
    assert (made.sent, len(made.dispatcher.queue), made.dispatcher.num_live) == ([], 0, 1)
    made.clock.time_s += 0.003
    reserver.answer(P2)
    assert prefilled(made) == [("prefill-1", "r")]
    assert seen(made).outcomes == [("moved", 0.003)]
    (placement,) = seen(made).placements
    assert placement.shared is not None
    assert (placement.shared.own, round(placement.shared.asked_s, 6)) == (P, 0.003)
    assert "prefill-0 is reserved for more work" in placement.reason
    assert reserver.book.num_reservations == 1
    made.report(P2, events=(done("r"),))
    assert reserver.book.num_reservations == 0, "its prompt is computed"
    made.report(P2, tokens=(token(0, "r"),))
    made.report(D, events=(handed("r"),), tokens=(token(1, "r", finish=FinishReason.STOP),))
    made.assert_empty()
    assert len(reserver.released) == 1


def test_the_same_answer_as_ones_own_choice_is_no_change() -> None:
    reserver = FakeReserver()
    made = world(reserver=reserver)
    made.submit("r")
    reserver.answer(P)
    assert prefilled(made) == [("prefill-0", "r")]
    assert seen(made).outcomes == [("kept", 0.0)]
    assert "reserved" not in seen(made).placements[0].reason


def test_without_an_answer_from_redis_it_goes_at_once_as_alone() -> None:
    reserver = FakeReserver()
    made = world(reserver=reserver)
    made.submit("r")
    reserver.miss("breaker_open")
    assert prefilled(made) == [("prefill-0", "r")]
    assert seen(made).outcomes == [("breaker_open", 0.0)]
    assert seen(made).placements[0].shared is None
    assert reserver.told == [], "a Redis in trouble is not told either"


def test_a_lost_answer_holds_nobody_and_is_released_when_it_comes_late() -> None:
    reserver = FakeReserver()
    made = world(reserver=reserver)
    made.submit("r")
    made.clock.time_s += 0.02
    made.dispatcher.step()
    assert made.sent == [], "there is still time"
    made.clock.time_s += 0.006
    made.dispatcher.step()
    assert prefilled(made) == [("prefill-0", "r")]
    assert seen(made).outcomes == [("no_answer", 0.026)]
    reserver.answer(P2)
    assert len(prefilled(made)) == 1
    assert reserver.book.num_reservations == 0
    assert [worker for _, worker in reserver.released] == [P2]


@pytest.mark.parametrize("start_s", [0.1, 7.3, 1000.1])
def test_the_wait_is_over_at_the_very_moment_of_its_timer(start_s: float) -> None:
    """The timer comes once. At 1000.1 s a wait of 25 ms that has just ended looks shorter than 25 ms: floats."""
    reserver = FakeReserver()
    made = world(reserver=reserver)
    made.clock.time_s = start_s
    made.submit("r")
    made.clock.time_s = start_s + ON.max_wait_s
    made.dispatcher.step()
    assert prefilled(made) == [("prefill-0", "r")]


def test_a_late_miss_changes_nothing() -> None:
    reserver = FakeReserver()
    made = world(reserver=reserver)
    made.submit("r")
    made.clock.time_s += 0.026
    made.dispatcher.step()
    reserver.miss()
    assert len(prefilled(made)) == 1
    assert len(seen(made).outcomes) == 1


@pytest.mark.parametrize("end", ["cancel", "deadline", "stop", "wait"])
def test_who_ends_while_it_waits_ends_as_in_the_queue(end: str) -> None:
    reserver = FakeReserver()
    made = world(reserver=reserver, sharing=replace(ON, max_wait_s=1e9))
    sink = made.submit("r", deadline_in_s=1.0 if end == "deadline" else None)
    match end:
        case "cancel":
            made.dispatcher.cancel(sink_id := reserver.asked[0].ticket.request_id)
            assert sink_id == "r"
        case "deadline":
            made.wait(1.5, alive=(P, P2, D))
        case "stop":
            made.dispatcher.fail_all(Unavailable("over", reason=reasons.DRAINING))
        case "wait":
            made.wait(121.0, alive=(P, P2, D))
    (ended,) = sink.ends
    expected = {
        "cancel": Outcome.CANCELLED,
        "deadline": Outcome.DEADLINE,
        "stop": Outcome.FAILED,
        "wait": Outcome.SHED,
    }
    assert ended.outcome is expected[end]
    made.assert_empty()
    assert made.sent == []
    assert [outcome for outcome, _ in seen(made).outcomes] == ["ended"]
    reserver.answer(P2)
    assert made.sent == []
    assert reserver.book.num_reservations == 0
    made.assert_empty()


def test_an_ended_request_has_cost_its_tenant_nothing() -> None:
    reserver = FakeReserver()
    made = world(reserver=reserver)
    made.submit("b1", tenant="b", prompt=100)
    reserver.answer()
    before = dict(made.dispatcher.queue._counters)
    made.submit("r", tenant="b", prompt=300)
    made.dispatcher.cancel(reserver.asked[0].ticket.request_id)
    assert dict(made.dispatcher.queue._counters) == before


def test_keep_alives_go_on() -> None:
    reserver = FakeReserver()
    made = world(reserver=reserver, sharing=replace(ON, max_wait_s=1e9))
    sink = made.submit("r")
    made.wait(11.0, alive=(P, P2, D))
    assert sink.num_keep_alives == 2


def test_a_worker_that_dies_meanwhile_is_not_taken() -> None:
    reserver = FakeReserver()
    made = world(reserver=reserver)
    made.submit("r")
    made.dispatcher.on_lost(P2)
    reserver.answer(P2)
    assert prefilled(made) == [("prefill-0", "r")]
    assert seen(made).outcomes == [("unfit", 0.0)]
    assert reserver.book.reserved_s(P2) == 0.0
    assert reserver.book.reserved_s(P) == 0.0, "with one prefill worker left there is nothing to agree on"


def test_another_life_of_the_worker_is_another_worker() -> None:
    reserver = FakeReserver()
    made = world(reserver=reserver)
    made.submit("r")
    made.restart(P2)
    made.dispatcher.on_attached(key("prefill-1", 2))
    reserver.answer(P2)
    (went,) = [worker for worker, command in made.sent if isinstance(command, StartPrefill)]
    assert went != P2
    assert seen(made).outcomes == [("unfit", 0.0)]
    assert reserver.book.reserved_s(P2) == 0.0
    assert [one.worker for _, one in reserver.told] == [went], "it went elsewhere: the others should know"


def test_the_decode_worker_is_chosen_anew() -> None:
    reserver = FakeReserver()
    made = world(P, P2, D, D2, reserver=reserver)
    made.submit("r")
    made.dispatcher.on_lost(D)
    reserver.answer(P2)
    assert [w for w, c in made.sent if isinstance(c, ReserveDecode)] == [D2]


def test_who_fits_nowhere_any_more_waits_at_its_place() -> None:
    reserver = FakeReserver()
    made = world(P, P2, D, D2, reserver=reserver, max_sequences=1)
    made.submit("a")
    made.submit("b")
    first, second = (w.worker_id for w in (D, D2))
    made.submit("later", priority=PriorityClass.INTERACTIVE)
    assert [asking.ticket.request_id for asking in reserver.asked] == ["a", "b"], f"{first} and {second} are taken"
    made.dispatcher.on_lost(D)
    made.dispatcher.on_lost(D2)
    reserver.answer_all()
    assert made.sent == []
    assert reserver.book.num_reservations == 0
    assert len(made.dispatcher.queue) == 3
    made.dispatcher.on_attached(D)
    reserver.answer_all()
    assert [request for _, request in prefilled(made)] == ["later"], "who was put back does not pass a more urgent one"
    made.dispatcher.on_attached(D2)
    reserver.answer_all()
    assert [request for _, request in prefilled(made)] == ["later", "a"]


def test_an_answer_to_an_earlier_ask_is_no_answer_to_this_one() -> None:
    reserver = FakeReserver()
    made = world(reserver=reserver)
    made.submit("r")
    made.dispatcher.on_lost(D)
    made.clock.time_s += 0.026
    made.dispatcher.step()
    assert "r" in made.dispatcher.queue, "nobody answered, and nothing fits"
    made.dispatcher.on_attached(D)
    early, now = (asking.ticket for asking in reserver.asked)
    assert early != now
    reserver.answer(P2)
    assert made.sent == [], "it waits for the answer to its second ask"
    assert reserver.released == [(early, P2)]
    reserver.answer(P)
    assert prefilled(made) == [("prefill-0", "r")]
    finish(made, "r", P)
    made.assert_empty()
    assert reserver.book.num_reservations == 0


def test_those_that_wait_hold_what_they_would_get() -> None:
    """A burst asks for no more than fits: two slots, two asks."""
    reserver = FakeReserver()
    made = world(reserver=reserver, max_sequences=2)
    for number in range(5):
        made.submit(f"r{number}")
    assert len(reserver.asked) == 2
    assert len(made.dispatcher.queue) == 3
    reserver.answer_all()
    assert len(prefilled(made)) == 2


def test_work_that_is_asked_for_counts_where_it_would_go() -> None:
    reserver = FakeReserver()
    made = world(reserver=reserver)
    for number in range(3):
        made.submit(f"r{number}")
    assert [asking.candidates[0].worker for asking in reserver.asked] == [P, P2, P]
    assert [one.queued_s for one in reserver.asked[2].candidates] == [0.0, 0.0], (
        "for the shared sums it is not there yet"
    )
    assert made.dispatcher.reserving.ahead_s == {P: 0.2, P2: 0.1}
    reserver.answer_all()
    assert made.dispatcher.reserving.ahead_s == {}


def test_a_further_attempt_does_not_wait_and_is_seen() -> None:
    reserver = FakeReserver()
    made = world(P, P2, D, D2, reserver=reserver)
    made.submit("r")
    reserver.answer(P)
    made.report(P, events=(failed(reasons.ENGINE),))
    assert reserver.asked == []
    assert prefilled(made) == [("prefill-0", "r"), ("prefill-1", "r")]
    assert [one.worker for _, one in reserver.told] == [P2]
    assert reserver.book.num_reservations == 1, "the failed attempt's is released"
    made.dispatcher.cancel(reserver.told[0][0].request_id)
    assert reserver.book.num_reservations == 0
    made.report(P2, events=())
    assert made.commands(Abort, P2)


def test_an_overtaker_asks_as_well() -> None:
    """The head waits for prefill-0, which holds its prefix; two others are idle."""
    view, p3 = make_cache_view(), key("prefill-2")
    hold(view, P, stored(960))
    placement = PlacementPolicy(mode=PlacementMode.SPLIT, tie_share=None, look_ahead_s=0.02, max_affinity_s=100.0)
    reserver = FakeReserver()
    policy = DispatcherPolicy(placement=placement, sharing=ON)
    made = World(P, P2, p3, D, policy=policy, cache=view, reserver=reserver)
    for record in made.dispatcher.fleet.records():
        record.profile(LatencyCoefficients(prefill=(0.01, 1e-3, 0.0), step=(0.02, 1e-3, 1e-6), transfer=(0.0, 0.0)))
    made.submit("first", prompt=980)
    reserver.answer(P)
    made.submit("head", prompt=980)
    made.clock.time_s += 0.01
    made.submit("other", prompt=30, tenant="rival")
    assert [(one.ticket.request_id, [c.worker for c in one.candidates]) for one in reserver.asked] == [
        ("other", [P2, p3])
    ]
    assert len(made.dispatcher.queue) == 1
    reserver.answer(p3)
    assert prefilled(made) == [("prefill-0", "first"), ("prefill-2", "other")]


# --- what it is for --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_routers", [2, 5])
@pytest.mark.parametrize("num_requests", [1, 3, 8])
def test_routers_that_place_at_the_same_moment_split_evenly(num_routers: int, num_requests: int) -> None:
    """All of them ask before any is answered."""
    book = Book()
    prefills = tuple(key(f"prefill-{n}") for n in range(4))
    reservers = [FakeReserver(book, router=n) for n in range(num_routers)]
    routers = [world(*prefills, D, reserver=reserver, max_sequences=100) for reserver in reservers]
    alone = [world(*prefills, D, reserver=FakeReserver(), sharing=SharingPolicy(), max_sequences=100) for _ in routers]
    for number in range(num_requests):
        for index in range(num_routers):
            routers[index].submit(f"{index}/{number}")
            alone[index].submit(f"{index}/{number}")
    for _ in range(num_requests):
        for reserver in reservers:
            reserver.answer()

    def split(made: list[World]) -> list[int]:
        went = [worker for one in made for worker, _ in prefilled(one)]
        return [went.count(worker.worker_id) for worker in prefills]

    assert sum(split(routers)) == num_routers * num_requests
    assert max(split(routers)) - min(split(routers)) <= 1
    if num_requests % 4:
        assert max(split(alone)) - min(split(alone)) == num_routers, "each one begins with the same worker"
