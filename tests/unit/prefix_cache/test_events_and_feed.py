"""A watcher ends with the same picture as the worker, whatever is lost, repeated or restarted on the way."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from tandem.core.ids import Epoch, WorkerId
from tandem.prefix_cache.events import (
    Cleared,
    KvEvent,
    KvEventRing,
    NumberedEvent,
    Removed,
    Replay,
    Stored,
    Tier,
    num_keys,
)
from tandem.prefix_cache.feed import KvEventFeed
from tandem.prefix_cache.index import CacheHolder, PrefixIndex
from tandem.prefix_cache.keys import BlockKey

WORKER = WorkerId("prefill-0")


def name(number: int) -> BlockKey:
    return BlockKey(number.to_bytes(32, "big"))


def stored(*numbers: int, tier: Tier = Tier.DEVICE) -> Stored:
    return Stored(keys=tuple(map(name, numbers)), tier=tier)


def removed(*numbers: int, tier: Tier = Tier.DEVICE) -> Removed:
    return Removed(keys=tuple(map(name, numbers)), tier=tier)


def held_by(index: PrefixIndex, epoch: int, numbers: Sequence[int]) -> set[int]:
    holder = CacheHolder(WORKER, Epoch(epoch))
    return {number for number in numbers if holder in index.match([name(number)])}


def test_ring_numbers_from_one_and_replays_what_it_has() -> None:
    ring = KvEventRing(Epoch(1), capacity=3)
    for number in range(5):
        assert ring.append(stored(number)).sequence == number + 1
    replay = ring.since(Epoch(1), 4)
    assert replay.snapshot is None
    assert [event.sequence for event in replay.events] == [4, 5]
    assert ring.since(Epoch(1), 6).events == ()
    assert ring.since(Epoch(1), 6).snapshot is None


def test_ring_answers_with_a_snapshot_when_it_can_not_replay() -> None:
    ring = KvEventRing(Epoch(1), capacity=2)
    for event in (stored(1, 2, 3), removed(2), stored(9, tier=Tier.HOST)):
        ring.append(event)
    for asked in (ring.since(Epoch(1), 1), ring.since(Epoch(2), 3), ring.since(None, 1), ring.since(Epoch(1), 99)):
        assert asked.snapshot is not None
        assert asked.snapshot.sequence == 3
        assert {(held.tier, held.keys) for held in asked.snapshot.held} == {
            (Tier.DEVICE, (name(1), name(3))),
            (Tier.HOST, (name(9),)),
        }
    assert ring.num_held(Tier.DEVICE) == 2
    ring.append(Cleared())
    assert ring.num_held(Tier.DEVICE) == ring.num_held(Tier.HOST) == 0


def test_num_keys() -> None:
    assert num_keys([stored(1, 2), removed(1), Cleared()]) == 3


def test_feed_notices_a_gap_and_forgets_until_the_snapshot() -> None:
    index, ring = PrefixIndex(), KvEventRing(Epoch(1))
    feed = KvEventFeed(WORKER, index)
    assert feed.resume().epoch is None
    assert feed.on_replay(ring.since(None, 1), 0.0)
    first, _, third = ring.append(stored(1)), ring.append(removed(1)), ring.append(stored(3))
    assert feed.on_event(first, 1.0)
    assert held_by(index, 1, [1]) == {1}
    assert not feed.on_event(third, 2.0)  # the second is missing: what we believe may be wrong anywhere
    assert held_by(index, 1, [1, 3]) == set()
    assert feed.num_gaps == 1
    ask = feed.resume()
    assert feed.on_replay(ring.since(ask.epoch, ask.start_sequence), 3.0)
    assert held_by(index, 1, [1, 3]) == {3}
    assert feed.staleness_s(5.0) == 2.0


def test_feed_ignores_repeats() -> None:
    index, ring = PrefixIndex(), KvEventRing(Epoch(1))
    feed = KvEventFeed(WORKER, index)
    feed.on_replay(ring.since(None, 1), 0.0)
    first, second = ring.append(stored(1)), ring.append(removed(1))
    assert all(feed.on_event(event, 0.0) for event in (first, second, first))
    assert held_by(index, 1, [1]) == set()


def test_feed_drops_the_old_life_with_the_new_one() -> None:
    index = PrefixIndex()
    feed = KvEventFeed(WORKER, index)
    old, new = KvEventRing(Epoch(1)), KvEventRing(Epoch(2))
    old.append(stored(1))
    new.append(stored(2))
    feed.on_replay(old.since(None, 1), 0.0)
    ask = feed.resume()
    assert feed.on_replay(new.since(ask.epoch, ask.start_sequence), 0.0)
    assert held_by(index, 1, [1, 2]) == set()
    assert held_by(index, 2, [1, 2]) == {2}


def test_feed_does_not_trust_a_replay_that_begins_in_the_middle() -> None:
    feed = KvEventFeed(WORKER, PrefixIndex())
    middle = (NumberedEvent(sequence=7, event=stored(1)),)
    assert not feed.on_replay(Replay(epoch=Epoch(1), snapshot=None, events=middle), 0.0)
    assert feed.resume().epoch is None


EVENTS = st.one_of(
    st.builds(lambda ns, tier: stored(*ns, tier=tier), st.lists(st.integers(0, 9), unique=True), st.sampled_from(Tier)),
    st.builds(
        lambda ns, tier: removed(*ns, tier=tier), st.lists(st.integers(0, 9), unique=True), st.sampled_from(Tier)
    ),
    st.just(Cleared()),
)
STEPS = st.lists(st.one_of(EVENTS, st.sampled_from(["drop", "repeat", "break", "restart"])), min_size=1, max_size=40)


@given(STEPS, st.integers(1, 6))
def test_the_picture_is_right_after_any_trouble(steps: list[KvEvent | str], capacity: int) -> None:
    """Lost and repeated events, broken streams, restarts of the worker: after the last resume both sides agree."""
    index = PrefixIndex()
    feed = KvEventFeed(WORKER, index)
    ring = KvEventRing(Epoch(1), capacity=capacity)
    attached = feed.on_replay(ring.since(None, 1), 0.0)
    drop_next = False
    last: NumberedEvent | None = None
    for step in steps:
        match step:
            case "drop":
                drop_next = True
            case "repeat":
                if last is not None and attached:
                    attached = feed.on_event(last, 0.0)
            case "break":
                attached = False
            case "restart":
                ring, attached, last = KvEventRing(Epoch(ring.epoch + 1), capacity=capacity), False, None
            case str():
                raise AssertionError(step)
            case event:
                numbered = ring.append(event)
                if attached and not drop_next:
                    attached = feed.on_event(numbered, 0.0)
                    last = numbered
                drop_next = False
        if not attached:
            ask = feed.resume()
            attached = feed.on_replay(ring.since(ask.epoch, ask.start_sequence), 0.0)
    # A lost last event is noticed with the next one.
    if not feed.on_event(ring.append(stored(77)), 0.0):
        ask = feed.resume()
        assert feed.on_replay(ring.since(ask.epoch, ask.start_sequence), 0.0)
    expected = {
        number
        for number in range(100)
        for replay in [ring.since(None, 1)]
        if replay.snapshot is not None and any(name(number) in held.keys for held in replay.snapshot.held)
    }
    assert held_by(index, ring.epoch, range(100)) == expected
