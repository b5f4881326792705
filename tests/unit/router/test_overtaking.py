"""Who may pass a head that waits for one prefill worker: bounded, in the queue's order, never at its expense."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.core.ids import RequestId, Tenant
from tandem.core.latency import LatencyCoefficients
from tandem.core.messages import ReserveDecode, StartPrefill
from tandem.core.types import PriorityClass
from tandem.router.cache.view import CacheView
from tandem.router.live import DispatcherPolicy, OvertakingPolicy
from tandem.router.placement import NoCapacity, PlacementMode, PlacementPolicy
from tandem.router.queue import CentralQueue, QueueBounds, QueueEntry
from tests.unit.router.builders import P2, D, P
from tests.unit.router.cached import hold, make_cache_view, stored
from tests.unit.router.test_queue import entry, names
from tests.unit.router.world import World, done


def world(*, max_look: int = 8, max_overtakes: int = 16, max_sequences: int = 64) -> World:
    """P holds 960 tokens of the common prompt and has its look-ahead full; P2 is idle."""
    view = make_cache_view()
    hold(view, P, stored(960))
    placement = PlacementPolicy(mode=PlacementMode.SPLIT, tie_share=None, look_ahead_s=0.02, max_affinity_s=100.0)
    policy = DispatcherPolicy(
        placement=placement, overtaking=OvertakingPolicy(max_look=max_look, max_overtakes=max_overtakes)
    )
    made = slow_world(policy, view, max_sequences)
    made.submit("first", prompt=980)
    return made


def slow_world(policy: DispatcherPolicy, view: CacheView, max_sequences: int) -> World:
    """Prefill takes 10 ms and a millisecond a token."""
    made = World(P, P2, D, policy=policy, cache=view, max_sequences=max_sequences)
    for record in made.dispatcher.fleet.records():
        record.profile(LatencyCoefficients(prefill=(0.01, 1e-3, 0.0), step=(0.02, 1e-3, 1e-6), transfer=(0.0, 0.0)))
    return made


def prefilled(made: World) -> list[tuple[str, str]]:
    return [(w.worker_id, c.task.request_id) for w, c in made.sent if isinstance(c, StartPrefill)]


def test_others_go_where_there_is_room_and_the_head_gets_what_it_waits_for() -> None:
    made = world()
    made.submit("head", prompt=980)
    assert prefilled(made) == [("prefill-0", "first")], "the head waits for P"
    made.clock.time_s += 0.01
    made.submit("other", prompt=30, tenant="rival")
    assert prefilled(made)[1:] == [("prefill-1", "other")]
    assert made.dispatcher.overtaking.num_overtakes == 1
    made.report(P, events=(done("first"),))
    assert prefilled(made)[2:] == [("prefill-0", "head")]


def test_without_looking_everybody_waits() -> None:
    made = world(max_look=0)
    made.submit("head", prompt=980)
    made.clock.time_s += 0.01
    made.submit("other", prompt=30, tenant="rival")
    assert len(prefilled(made)) == 1


def test_any_one_head_is_passed_so_often_and_no_more() -> None:
    made = world(max_overtakes=3)
    made.submit("head", prompt=980)
    for number in range(10):
        made.clock.time_s += 0.01
        made.submit(f"o{number}", prompt=1, tenant=f"t{number}")
        made.report(P2, events=tuple(done(f"o{n}") for n in range(number + 1)))
    assert len(prefilled(made)) == 1 + 3
    made.report(P, events=(done("first"),))
    assert prefilled(made)[4] == ("prefill-0", "head")
    assert len(prefilled(made)) > 5, "with the head the others go on"


@given(st.lists(st.integers(1, 150), max_size=20))
def test_nobody_who_passes_makes_the_head_begin_later(sizes: list[int]) -> None:
    """Whoever passes, and however many: when the head's worker has credit, the head is what it gets next."""
    made = world(max_overtakes=1 << 16)
    made.submit("head", prompt=980)
    for number, size in enumerate(sizes):
        made.clock.time_s += 0.01
        made.submit(f"o{number}", prompt=size, tenant=f"t{number}")
        made.report(P2, events=tuple(done(f"o{n}") for n in range(number + 1)))
    at_head_s_worker = [name for worker, name in prefilled(made) if worker == P.worker_id]
    assert at_head_s_worker == ["first"], "who passes takes another worker"
    assert len(prefilled(made)) == 1 + len(sizes), "and nobody is kept from an idle one"
    made.report(P, events=(done("first"),))
    assert [name for worker, name in prefilled(made) if worker == P.worker_id][1] == "head"


def test_by_default_one_head_is_no_reason_for_others_to_stand_idle() -> None:
    """A long prompt waits for as long as a hundred short ones take; they go on meanwhile."""
    made = world(max_overtakes=OvertakingPolicy().max_overtakes, max_sequences=200)
    made.submit("head", prompt=980)
    for number in range(100):
        made.clock.time_s += 0.01
        made.submit(f"o{number}", prompt=1, tenant=f"t{number}")
        made.report(P2, events=tuple(done(f"o{n}") for n in range(number + 1)))
    assert len(prefilled(made)) == 1 + 100


def test_those_ahead_are_counted_as_if_they_had_been_placed() -> None:
    """Who would wait for P behind all who wait for it already does better elsewhere, and goes there."""
    view = make_cache_view(max_expected_blocks=0)
    hold(view, P, stored(960))
    placement = PlacementPolicy(
        mode=PlacementMode.SPLIT, tie_share=None, look_ahead_s=0.02, affinity=0.0, affinity_per_waiting=0.0
    )
    policy = DispatcherPolicy(placement=placement, overtaking=OvertakingPolicy(max_look=64))
    made = slow_world(policy, view, 200)
    for number in range(50):
        made.clock.time_s += 0.01
        made.submit(f"r{number}", prompt=980, tenant="local")
    assert "prefill-1" in {worker for worker, _ in prefilled(made)}


def test_a_head_that_waits_for_a_decode_worker_is_never_passed() -> None:
    made = world(max_sequences=2)
    made.submit("head", prompt=30, n=2)
    made.clock.time_s += 0.01
    made.submit("small", prompt=30)
    assert [c.task.request_id for _, c in made.sent if isinstance(c, ReserveDecode)] == ["first"]


def test_a_refusal_that_names_nobody_lets_nobody_pass() -> None:
    made = world()
    made.submit("head", prompt=980)
    head = made.dispatcher.queue.peek()
    assert head is not None
    made.clock.time_s += 1.0
    refusal = NoCapacity(reason="no room")
    assert list(made.dispatcher.overtaking.find(head, refusal, made.clock.now_s())) == []


# --- the queue's order beyond its head ---------------------------------------------------------------------------


def test_the_order_beyond_the_head_is_the_order_of_taking() -> None:
    queue = CentralQueue(QueueBounds(batch_floor=0.0))
    for number in range(12):
        tenant = "abc"[number % 3]
        priority = (PriorityClass.STANDARD, PriorityClass.INTERACTIVE)[number % 2]
        queue.push(entry(f"r{number}", tenant=tenant, priority=priority, cost=50.0 * (1 + number), arrived_s=number))
    queue.push_again(replace(entry("again"), request_id=RequestId("again")))
    queue.discard(RequestId("r3"))
    head = queue.peek()
    assert head is not None
    for most in (0, 1, 5, 50):
        assert names(queue.following(head, most)) == names(queue.following(head, 50))[:most]
    following = names(queue.following(head, 50))
    taken = []
    while (one := queue.peek()) is not None:
        queue.take(one)
        taken.append(str(one.request_id))
    assert [str(head.request_id), *following] == taken


def test_looking_costs_as_much_as_is_looked_at_however_many_tenants_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look happens every few milliseconds: of a thousand tenants only those that may be in it are gone through."""
    queue = CentralQueue(QueueBounds())
    for number in range(1000):
        queue.push(entry(f"r{number}", tenant=f"t{number:04}", arrived_s=number))
    head = queue.peek()
    assert head is not None
    looked: list[str] = []
    first_of = CentralQueue._first_of

    def counted(self: CentralQueue, priority: PriorityClass, tenant: Tenant, most: int) -> list[QueueEntry]:
        looked.append(tenant)
        return first_of(self, priority, tenant, most)

    monkeypatch.setattr(CentralQueue, "_first_of", counted)
    assert names(queue.following(head, 8)) == [f"r{number}" for number in range(1, 9)]
    assert len(looked) <= 9


def test_looking_changes_nothing() -> None:
    queue = CentralQueue(QueueBounds())
    for number in range(6):
        queue.push(entry(f"r{number}", tenant="ab"[number % 2]))
    head = queue.peek()
    assert head is not None
    before = dict(queue._counters)
    assert queue.following(head, 3) == queue.following(head, 3)
    assert queue._counters == before
    assert queue.peek() is head
