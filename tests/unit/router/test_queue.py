"""Order, fairness and bounds of the central queue."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.core.ids import RequestId, Tenant
from tandem.core.types import PriorityClass
from tandem.router.admission.shedding import Line
from tandem.router.queue import CentralQueue, QueueBounds, QueueEntry

INTERACTIVE, STANDARD, BATCH = PriorityClass.INTERACTIVE, PriorityClass.STANDARD, PriorityClass.BATCH


def entry(
    name: str,
    *,
    tenant: str = "a",
    priority: PriorityClass = STANDARD,
    cost: float = 100.0,
    work_s: float = 0.1,
    deadline_s: float | None = None,
    arrived_s: float = 0.0,
) -> QueueEntry:
    return QueueEntry(
        request_id=RequestId(name),
        tenant=Tenant(tenant),
        priority=priority,
        cost_tokens=cost,
        work_s=work_s,
        deadline_s=deadline_s,
        arrived_s=arrived_s,
    )


def drain(queue: CentralQueue, most: int = 10_000) -> list[QueueEntry]:
    taken: list[QueueEntry] = []
    while len(taken) < most and (head := queue.peek()) is not None:
        queue.take(head)
        taken.append(head)
    return taken


def names(entries: list[QueueEntry]) -> list[str]:
    return [str(e.request_id) for e in entries]


def test_empty() -> None:
    queue = CentralQueue(QueueBounds())
    assert queue.peek() is None
    assert len(queue) == 0


def test_class_then_deadline_then_arrival() -> None:
    queue = CentralQueue(QueueBounds())
    queue.push(entry("batch", priority=BATCH))
    queue.push(entry("late", deadline_s=9.0))
    queue.push(entry("never", arrived_s=1.0))
    queue.push(entry("never-but-earlier", arrived_s=0.5))
    queue.push(entry("soon", deadline_s=3.0))
    queue.push(entry("now", priority=INTERACTIVE))
    assert names(drain(queue)) == ["now", "soon", "late", "never-but-earlier", "never", "batch"]


def test_arrival_order_among_equals() -> None:
    queue = CentralQueue(QueueBounds())
    for index in range(20):
        queue.push(entry(f"r{index:02d}"))
    assert names(drain(queue)) == [f"r{index:02d}" for index in range(20)]


def test_what_is_placed_again_goes_first_and_is_not_charged() -> None:
    queue = CentralQueue(QueueBounds())
    queue.push(entry("new", priority=INTERACTIVE))
    queue.push_again(entry("again", tenant="b", priority=BATCH))
    assert names(drain(queue)) == ["again", "new"]


def test_two_backlogged_tenants_get_equal_work() -> None:
    """The bound of VTC: counters of backlogged tenants differ by at most the largest single charge."""
    queue = CentralQueue(QueueBounds())
    for index in range(200):
        queue.push(entry(f"a{index}", tenant="a", cost=100.0))
    for index in range(40):
        queue.push(entry(f"b{index}", tenant="b", cost=500.0))
    got = {"a": 0.0, "b": 0.0}
    for taken in drain(queue, most=120):
        got[taken.tenant] += taken.cost_tokens
        assert abs(got["a"] - got["b"]) <= 500.0


def test_weights_share_in_proportion() -> None:
    queue = CentralQueue(QueueBounds(), {Tenant("a"): 3.0})
    for index in range(100):
        queue.push(entry(f"a{index}", tenant="a"))
        queue.push(entry(f"b{index}", tenant="b"))
    taken = [e.tenant for e in drain(queue, most=80)]
    assert taken.count(Tenant("a")) == 60


def test_idleness_earns_nothing() -> None:
    queue = CentralQueue(QueueBounds())
    for index in range(100):
        queue.push(entry(f"a{index}", tenant="a"))
    drain(queue, most=50)
    for index in range(50):
        queue.push(entry(f"b{index}", tenant="b"))
    taken = [e.tenant for e in drain(queue, most=20)]
    assert 9 <= taken.count(Tenant("b")) <= 11


def test_leaving_and_coming_back_earns_nothing_either() -> None:
    queue = CentralQueue(QueueBounds())
    for index in range(50):
        queue.push(entry(f"a{index}", tenant="a"))
    drain(queue)
    queue.push(entry("b0", tenant="b"))
    for index in range(10):
        queue.push(entry(f"c{index}", tenant="a"))
    taken = names(drain(queue, most=3))
    assert "b0" in taken
    assert len([name for name in taken if name.startswith("c")]) == 2


def test_batch_gets_its_floor_and_no_more() -> None:
    queue = CentralQueue(QueueBounds(batch_floor=0.1))
    for index in range(300):
        queue.push(entry(f"s{index}"))
        queue.push(entry(f"b{index}", priority=BATCH))
    taken = [e.priority for e in drain(queue, most=220)]
    assert 18 <= taken.count(BATCH) <= 22


def test_batch_earns_nothing_while_none_waits() -> None:
    queue = CentralQueue(QueueBounds())
    for index in range(100):
        queue.push(entry(f"s{index}"))
    drain(queue, most=90)
    queue.push(entry("b", priority=BATCH))
    assert names(drain(queue, most=5)) == [f"s{index}" for index in range(90, 95)]


def test_discard_is_final_and_frees_the_work() -> None:
    queue = CentralQueue(QueueBounds())
    queue.push(entry("x", work_s=1.0))
    queue.push(entry("y", work_s=2.0))
    assert queue.discard(RequestId("x")) is not None
    assert queue.discard(RequestId("x")) is None
    assert RequestId("x") not in queue
    assert queue.work_ahead_s(STANDARD) == pytest.approx(2.0)
    assert names(drain(queue)) == ["y"]
    assert queue.work_ahead_s(BATCH) == 0.0


def test_discard_of_one_that_is_placed_again() -> None:
    queue = CentralQueue(QueueBounds())
    queue.push_again(entry("x"))
    assert queue.discard(RequestId("x")) is not None
    assert queue.peek() is None


def test_many_cancellations_leave_no_dead_weight() -> None:
    queue = CentralQueue(QueueBounds(max_count=100_000))
    for index in range(10_000):
        queue.push(entry(f"r{index}", deadline_s=float(index)))
    for index in range(9_990):
        queue.discard(RequestId(f"r{index}"))
    (line,) = queue._lines[STANDARD].values()
    assert len(line.heap) <= 20
    assert names(drain(queue)) == [f"r{index}" for index in range(9_990, 10_000)]


def test_what_was_charged_too_much_is_given_back() -> None:
    queue = CentralQueue(QueueBounds())
    for index in range(20):
        queue.push(entry(f"a{index:02d}", tenant="a"))
        queue.push(entry(f"b{index:02d}", tenant="b"))
    drain(queue, most=4)
    queue.settle(Tenant("a"), -150.0)  # two answers were shorter than they were charged
    assert [e.tenant for e in drain(queue, most=4)] == ["a", "a", "b", "a"]
    queue.settle(Tenant("stranger"), 1e9)


def test_who_gave_its_place_away_is_not_charged_again() -> None:
    queue = CentralQueue(QueueBounds())
    queue.push(replace(entry("paid", tenant="a", cost=1000.0), is_paid=True))
    queue.push(entry("a", tenant="a"))
    queue.push(entry("b", tenant="b", deadline_s=1.0))
    assert names(drain(queue)) == ["paid", "a", "b"]


Request = tuple[str, PriorityClass, float]
requests = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from([INTERACTIVE, STANDARD]), st.floats(1.0, 50.0)), max_size=40
)


@given(before=requests, waiting=requests, tenant=st.sampled_from("abcd"), priority=st.sampled_from(list(PriorityClass)))
def test_what_is_said_to_be_ahead_is_what_is_served_first(
    before: list[Request], waiting: list[Request], tenant: str, priority: PriorityClass
) -> None:
    """Up to one request per tenant: the discipline serves whole requests, the prediction a fluid."""
    weights = {Tenant("a"): 2.0}
    queue = CentralQueue(QueueBounds(batch_floor=0.0), weights)
    for index, (name, urgency, cost) in enumerate(before):
        queue.push(entry(f"before-{index}", tenant=name, priority=urgency, cost=cost))
    drain(queue)
    for index, (name, urgency, cost) in enumerate(waiting):
        queue.push(entry(f"waiting-{index}", tenant=name, priority=urgency, cost=cost, work_s=cost))
    newcomer = entry("newcomer", tenant=tenant, priority=priority, arrived_s=1.0)
    said = queue.ahead_of(newcomer)
    queue.push(newcomer)
    served = drain(queue)
    first = served[: names(served).index("newcomer")]
    cost = sum(e.cost_tokens for e in first)
    if tenant == "d" or not any(urgency is not priority for _, urgency, _ in waiting):
        assert said.cost_tokens == pytest.approx(cost, abs=3 * 50.0)
    assert said.work_s == pytest.approx(said.cost_tokens)
    assert said.cost_tokens <= queue_cost(waiting) + 1e-6


def queue_cost(waiting: list[Request]) -> float:
    return sum(cost for _, _, cost in waiting)


def test_a_flood_is_not_ahead_of_another_tenant() -> None:
    queue = CentralQueue(QueueBounds())
    for index in range(1000):
        queue.push(entry(f"flood{index}", tenant="flood", work_s=1.0))
    assert queue.ahead_of(entry("x", tenant="flood")).work_s == pytest.approx(1000.0)
    assert queue.ahead_of(entry("y", tenant="victim")).work_s == 0.0
    queue.push(entry("y", tenant="victim"))
    assert queue.ahead_of(entry("z", tenant="victim")).work_s == pytest.approx(1.1)


def test_batch_waits_for_the_rest_but_not_beyond_its_floor() -> None:
    queue = CentralQueue(QueueBounds(batch_floor=0.1))
    for index in range(100):
        queue.push(entry(f"s{index}", work_s=1.0))
    assert queue.ahead_of(entry("b", priority=BATCH)).work_s == pytest.approx(10.0)
    queue.push(entry("b", priority=BATCH, work_s=1.0))
    assert queue.ahead_of(entry("i", priority=STANDARD)).work_s == pytest.approx(101.0)
    assert queue.ahead_of(entry("i", priority=INTERACTIVE)).work_s == 0.0
    whatever = CentralQueue(QueueBounds(batch_floor=0.0))
    whatever.push(entry("s", work_s=1.0))
    assert whatever.ahead_of(entry("b", priority=BATCH)).work_s == 1.0


def test_the_newest_of_a_line_is_who_joined_last() -> None:
    queue = CentralQueue(QueueBounds())
    for index in range(5):
        queue.push(entry(f"r{index}", deadline_s=10.0 - index))
    queue.discard(RequestId("r4"))
    assert queue.newest_of(Line(priority=STANDARD, tenant=Tenant("a"))) == "r3"
    assert queue.newest_of(Line(priority=BATCH, tenant=Tenant("a"))) is None


def test_counters_of_tenants_that_left_are_forgotten() -> None:
    queue = CentralQueue(QueueBounds(max_count=100_000))
    for index in range(5000):
        queue.push(entry(f"r{index}", tenant=f"t{index}", cost=1.0))
        drain(queue)
    assert len(queue._counters) <= 1025


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["push", "take", "discard"]),
            st.integers(0, 30),
            st.sampled_from(["a", "b", "c"]),
            st.sampled_from(list(PriorityClass)),
        ),
        max_size=120,
    )
)
def test_nothing_is_lost_or_served_twice(steps: list[tuple[str, int, str, PriorityClass]]) -> None:
    queue = CentralQueue(QueueBounds())
    waiting: set[str] = set()
    ever: set[str] = set()
    for what, number, tenant, priority in steps:
        name = f"r{number}"
        if what == "push" and name not in ever:
            queue.push(entry(name, tenant=tenant, priority=priority))
            waiting.add(name)
            ever.add(name)
        elif what == "discard":
            assert (queue.discard(RequestId(name)) is not None) == (name in waiting)
            waiting.discard(name)
        elif what == "take" and (head := queue.peek()) is not None:
            queue.take(head)
            assert head.request_id in waiting
            waiting.discard(str(head.request_id))
        assert len(queue) == len(waiting)
        assert all((RequestId(name) in queue) == (name in waiting) for name in ever)
    assert set(names(drain(queue))) == waiting
    assert all(queue.work_ahead_s(c) == 0.0 for c in PriorityClass)
    assert queue.waiting().cost_tokens == 0.0
