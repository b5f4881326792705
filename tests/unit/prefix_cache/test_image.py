"""Images of a worker's cache: their form, how an index is walked for one, and when a feed takes one."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.core.ids import Epoch, WorkerId
from tandem.core.kv_events import KvUpdate, SnapshotPart
from tandem.prefix_cache.events import Cleared, KvEvent, KvEventRing, NumberedEvent, Removed, Stored, Tier
from tandem.prefix_cache.feed import KvEventFeed
from tandem.prefix_cache.image import (
    MAX_PART_BLOCKS,
    ImageHead,
    ImagePart,
    decode_head,
    decode_part,
    encode_head,
    encode_part,
    head_key,
    image_subject,
    part_key,
)
from tandem.prefix_cache.index import CacheHolder, PrefixIndex
from tandem.prefix_cache.keys import BlockKey

WORKER = WorkerId("prefill-0")
HOLDER = CacheHolder(WORKER, Epoch(1))
PARTS = st.builds(ImagePart, tier=st.sampled_from(Tier), num_blocks=st.integers(1, MAX_PART_BLOCKS))
HEADS = st.builds(
    ImageHead,
    epoch=st.integers(0, 2**63).map(Epoch),
    sequence=st.integers(0, 2**63 - 2),
    image_id=st.binary(min_size=16, max_size=16),
    parts=st.lists(PARTS, max_size=20).map(tuple),
)


def name(number: int) -> BlockKey:
    return BlockKey(random.Random(number).randbytes(32))


def stored(*numbers: int, tier: Tier = Tier.DEVICE) -> Stored:
    return Stored(keys=tuple(map(name, numbers)), tier=tier)


def walked(
    index: PrefixIndex, *holders: CacheHolder, step_blocks: int = 7
) -> dict[CacheHolder, dict[Tier, set[BlockKey]]]:
    found: dict[CacheHolder, dict[Tier, set[BlockKey]]] = {}
    for piece in index.walk(holders, step_blocks=step_blocks):
        for names in piece:
            seen = found.setdefault(names.holder, {}).setdefault(names.tier, set())
            assert not seen & set(names.keys), "each name once"
            seen.update(names.keys)
    return found


# --- form --------------------------------------------------------------------------------------------------------


@given(HEADS)
def test_a_head_is_read_as_it_was_written(head: ImageHead) -> None:
    assert decode_head(encode_head(head)) == head
    assert head.num_blocks == sum(part.num_blocks for part in head.parts)


@given(HEADS, st.integers(1, 40))
def test_a_head_that_is_cut_or_too_long_is_none(head: ImageHead, number: int) -> None:
    data = encode_head(head)
    assert decode_head(data[: max(len(data) - number, 0)]) is None
    assert decode_head(data + bytes(number)) is None


@given(st.binary(max_size=200))
def test_noise_is_no_head_or_one_within_bounds(noise: bytes) -> None:
    head = decode_head(noise)
    assert head is None or all(1 <= part.num_blocks <= MAX_PART_BLOCKS for part in head.parts)


@pytest.mark.parametrize("place", [(3, 1), (0, 0), (0, MAX_PART_BLOCKS + 1)])
def test_a_part_of_no_tier_or_a_size_out_of_bounds_is_refused(place: tuple[int, int]) -> None:
    head = ImageHead(epoch=Epoch(1), sequence=1, image_id=bytes(16), parts=(ImagePart(tier=Tier.DEVICE, num_blocks=1),))
    data = encode_head(head)
    tier, num_blocks = place
    assert decode_head(data[:-5] + bytes([tier]) + num_blocks.to_bytes(4, "little")) is None


def test_a_number_whose_next_does_not_fit_is_refused() -> None:
    head = ImageHead(epoch=Epoch(1), sequence=2**63 - 1, image_id=bytes(16), parts=())
    assert decode_head(encode_head(head)) is None


def test_a_part_has_as_many_names_as_its_head_says() -> None:
    held = stored(1, 2, 3, tier=Tier.HOST)
    part = ImagePart(tier=Tier.HOST, num_blocks=3)
    assert decode_part(part, encode_part(held.keys)) == held
    assert decode_part(ImagePart(tier=Tier.HOST, num_blocks=2), encode_part(held.keys)) is None
    assert decode_part(part, encode_part(held.keys)[:-1]) is None


def test_nothing_passes_for_another_part_worker_or_form() -> None:
    keys = [part_key(image, number, tier) for image in (b"a" * 16, b"b" * 16) for number in (0, 1) for tier in Tier]
    keys += [head_key(WorkerId("a")), head_key(WorkerId("b"))]
    assert len(set(keys)) == len(keys)
    forms = {("l", 16), ("l", 161), ("1:l", 6), ("k", 16)}
    layouts = {image_subject(WORKER, layout_fingerprint=form, block_size=size).layout for form, size in forms}
    assert len(layouts) == len(forms)


# --- walk --------------------------------------------------------------------------------------------------------


def test_a_walk_tells_all_that_is_held_by_whom_in_which_tier() -> None:
    draw, index = random.Random(1), PrefixIndex(max_blocks=2_000_000)
    wanted: dict[CacheHolder, dict[Tier, set[BlockKey]]] = {}
    for number in range(5):
        holder = CacheHolder(WorkerId(f"w{number}"), Epoch(1))
        for tier in (Tier.DEVICE, Tier.REMOTE):
            held = stored(*(draw.randrange(400) for _ in range(200)), tier=tier)
            index.apply(holder, held)
            wanted.setdefault(holder, {})[tier] = set(held.keys)
    assert walked(index, *wanted) == wanted
    some = list(wanted)[1:3]
    assert walked(index, *some) == {holder: wanted[holder] for holder in some}
    assert walked(index, HOLDER) == {}


@pytest.mark.parametrize("seed", range(20))
def test_what_changes_during_a_walk_is_exact_after_the_later_events(seed: int) -> None:
    """An image and the events since its walk began make the index as it is, wherever the walk was when they came."""
    draw, index, ring = random.Random(seed), PrefixIndex(max_blocks=2_000_000), KvEventRing(Epoch(1), capacity=10_000)

    def change() -> None:
        numbers = [draw.randrange(300) for _ in range(draw.randrange(1, 20))]
        event: KvEvent = stored(*numbers, tier=draw.choice([Tier.DEVICE, Tier.HOST]))
        if draw.random() < 0.5 and isinstance(event, Stored):
            event = Removed(keys=event.keys, tier=event.tier)
        index.apply(HOLDER, ring.append(event).event)

    index.apply(HOLDER, ring.append(stored(*range(200))).event)
    sequence, mark = ring.last_sequence, index.mark(HOLDER)
    image: list[Stored] = []
    for piece in index.walk([HOLDER], step_blocks=10):
        image.extend(Stored(keys=names.keys, tier=names.tier) for names in piece)
        change()
    assert index.mark(HOLDER) == mark
    other = PrefixIndex()
    other.replace(HOLDER, image)
    for numbered in ring.since(Epoch(1), sequence + 1).events:
        other.apply(HOLDER, numbered.event)
    assert walked(other, HOLDER) == walked(index, HOLDER)


@pytest.mark.parametrize("event", ["cleared", "snapshot", "forgotten"])
def test_a_holder_that_was_begun_anew_has_another_mark(event: str) -> None:
    index = PrefixIndex()
    index.apply(HOLDER, stored(1))
    mark = index.mark(HOLDER)
    index.apply(HOLDER, stored(2, tier=Tier.HOST))
    assert index.mark(HOLDER) == mark, "it only learnt more"
    if event == "cleared":
        index.apply(HOLDER, Cleared())
    elif event == "snapshot":
        index.replace(HOLDER, [stored(1)])
    else:
        index.forget(HOLDER)
    assert index.mark(HOLDER) != mark
    index.apply(HOLDER, stored(1))
    assert index.mark(HOLDER) not in (mark, None)


def test_the_bound_holds_over_all_shards() -> None:
    index = PrefixIndex(max_blocks=1 << 18)
    assert len(index._shards) > 1
    for start in range(0, 300_000, 1000):
        keys = tuple(BlockKey(random.Random(start + at).randbytes(32)) for at in range(0, 1000))
        index.apply(HOLDER, Stored(keys=keys, tier=Tier.DEVICE))
        assert len(index) <= 1 << 18
    assert len(index) + index.num_overflowed == 300_000
    assert index.match(keys)[HOLDER].num_blocks == 1000, "the newest stay"


# --- feed --------------------------------------------------------------------------------------------------------


def image_part(*held: Stored, sequence: int = 7, first: bool = True, last: bool = True) -> SnapshotPart:
    return SnapshotPart(sequence=sequence, held=held, first=first, last=last)


def test_a_feed_goes_on_from_an_image() -> None:
    index = PrefixIndex()
    feed = KvEventFeed(WORKER, index)
    assert feed.on_image(Epoch(1), image_part(stored(1), last=False))
    assert (feed.resume().epoch, feed.position) == (None, None), "not whole yet"
    assert feed.on_image(Epoch(1), image_part(stored(2), first=False))
    assert (feed.resume().epoch, feed.resume().start_sequence, feed.position) == (1, 8, 7)
    assert feed.staleness_s(5.0) is None, "nobody has heard the worker yet"
    event = NumberedEvent(sequence=8, event=stored(3))
    assert feed.on_update(KvUpdate(epoch=Epoch(1), last_sequence=8, events=(event,)), 5.0)
    assert (feed.num_snapshots, feed.num_gaps) == (0, 0)
    assert walked(index, HOLDER) == {HOLDER: {Tier.DEVICE: {name(1), name(2), name(3)}}}


def test_an_image_never_replaces_what_the_worker_told() -> None:
    index = PrefixIndex()
    feed = KvEventFeed(WORKER, index)
    assert feed.on_update(KvUpdate(epoch=Epoch(1), last_sequence=9, snapshot=image_part(stored(1), sequence=9)), 5.0)
    assert not feed.on_image(Epoch(1), image_part(stored(2)))
    feed.drop_image()
    assert feed.position == 9
    assert not feed.on_event(NumberedEvent(sequence=99, event=stored(5)), 6.0)
    assert not feed.on_image(Epoch(1), image_part(stored(2))), "the stream had begun; it begins again with a snapshot"
    assert walked(index, HOLDER) == {}


def test_an_image_that_is_given_up_leaves_nothing() -> None:
    index = PrefixIndex()
    feed = KvEventFeed(WORKER, index)
    assert feed.on_image(Epoch(1), image_part(stored(1), last=False))
    feed.drop_image()
    assert walked(index, HOLDER) == {}
    assert feed.resume().epoch is None
    assert not feed.on_image(Epoch(1), image_part(stored(2), first=False)), "the middle of nothing"


def test_an_image_is_replaced_by_the_snapshot_of_a_worker_that_can_not_go_on_from_it() -> None:
    index = PrefixIndex()
    feed = KvEventFeed(WORKER, index)
    assert feed.on_image(Epoch(1), image_part(stored(1, 2)))
    assert feed.on_update(KvUpdate(epoch=Epoch(1), last_sequence=90, snapshot=image_part(stored(3), sequence=90)), 5.0)
    assert walked(index, HOLDER) == {HOLDER: {Tier.DEVICE: {name(3)}}}
    assert (feed.num_snapshots, feed.position) == (1, 90)
