"""A request that leaves the queue for a moment: who comes back is where it was, who ends has cost nothing."""

from hypothesis import given
from hypothesis import strategies as st

from tandem.core.types import PriorityClass
from tandem.router.queue import CentralQueue, QueueBounds, QueueEntry, SetAside
from tests.unit.router.test_queue import BATCH, INTERACTIVE, STANDARD, drain, entry, names

entries = st.lists(
    st.builds(
        lambda tenant, priority, cost, deadline_s: (tenant, priority, cost, deadline_s),
        st.sampled_from("abc"),
        st.sampled_from((INTERACTIVE, STANDARD, BATCH)),
        st.integers(1, 1000).map(float),  # sums of these, and of eighths of them, are exact
        st.none() | st.floats(1.0, 100.0),
    ),
    min_size=1,
    max_size=12,
)
Draws = list[tuple[str, PriorityClass, float, float | None]]


def filled(draws: Draws, *, served: int = 0) -> CentralQueue:
    queue = CentralQueue(QueueBounds(batch_floor=0.125))
    for number, (tenant, priority, cost, deadline_s) in enumerate(draws):
        queue.push(
            entry(f"e{number}", tenant=tenant, priority=priority, cost=cost, deadline_s=deadline_s, arrived_s=number)
        )
    drain(queue, served)
    return queue


def head(queue: CentralQueue) -> QueueEntry:
    found = queue.peek()
    assert found is not None
    return found


@given(entries, st.integers(0, 6), st.integers(1, 4))
def test_those_that_come_back_are_served_in_the_order_as_if_they_had_never_been_away(
    draws: Draws, served: int, num_away: int
) -> None:
    there, away = filled(draws, served=served), filled(draws, served=served)
    aside: list[SetAside] = []
    while len(aside) < num_away and (first := away.peek()) is not None:
        aside.append(away.set_aside(first))
    assert not any(one.entry.request_id in away for one in aside)
    for one in reversed(aside):
        away.put_back(one)
    assert len(away) == len(there)
    assert names(drain(away)) == names(drain(there))


@given(entries, st.integers(0, 6))
def test_who_ends_is_charged_no_more_than_one_that_was_discarded(draws: Draws, served: int) -> None:
    ended, discarded = filled(draws, served=served), filled(draws, served=served)
    if ended.peek() is None:
        return
    one = head(ended)
    ended.refund(ended.set_aside(one))
    discarded.discard(one.request_id)
    assert names(drain(ended)) == names(drain(discarded))


@given(entries)
def test_while_it_is_away_the_others_come_in_the_order_as_if_it_had_been_served(draws: Draws) -> None:
    away, served = filled(draws), filled(draws, served=1)
    away.set_aside(head(away))
    assert names(drain(away)) == names(drain(served))
