"""The positional index against a plain one, its bounds, and the clearing away of ended lives."""

import random

from hypothesis import given
from hypothesis import strategies as st

from tandem.core.ids import Epoch, WorkerId
from tandem.prefix_cache.events import Cleared, Removed, Stored, Tier
from tandem.prefix_cache.index import CacheHolder, PrefixIndex, PrefixMatch
from tandem.prefix_cache.keys import BlockKey


def holder(number: int, epoch: int = 1) -> CacheHolder:
    return CacheHolder(WorkerId(f"prefill-{number}"), Epoch(epoch))


def prompt(number: int, length: int) -> list[BlockKey]:
    return [BlockKey(number.to_bytes(16, "big") + index.to_bytes(16, "big")) for index in range(length)]


def store(index: PrefixIndex, who: CacheHolder, keys: list[BlockKey], tier: Tier = Tier.DEVICE) -> None:
    index.apply(who, Stored(keys=tuple(keys), tier=tier))


@given(st.integers(1, 200), st.lists(st.integers(0, 200), max_size=8), st.integers(1, 40))
def test_every_run_is_found_exactly(length: int, runs: list[int], jump: int) -> None:
    index = PrefixIndex(jump=jump)
    keys = prompt(0, length)
    for number, run in enumerate(runs):
        store(index, holder(number), keys[:run])
    expected = {
        holder(number): PrefixMatch(num_blocks=min(run, length), num_device_blocks=min(run, length))
        for number, run in enumerate(runs)
        if run
    }
    assert index.match(keys) == expected


@given(st.integers(1, 100), *[st.integers(0, 40)] * 3, st.integers(1, 40))
def test_a_match_tells_the_tiers_apart(length: int, num_device: int, num_host: int, num_remote: int, jump: int) -> None:
    index = PrefixIndex(jump=jump)
    keys = prompt(0, length)
    start, counts = 0, []
    for tier, count in ((Tier.DEVICE, num_device), (Tier.HOST, num_host), (Tier.REMOTE, num_remote)):
        counts.append(len(keys[start : start + count]))
        store(index, holder(0), keys[start : start + count], tier)
        start += count
    expected = PrefixMatch(num_blocks=sum(counts), num_device_blocks=counts[0], num_remote_blocks=counts[2])
    assert index.match(keys) == ({holder(0): expected} if sum(counts) else {})


@given(st.integers(1, 100), st.integers(0, 100), st.integers(0, 100), st.integers(1, 40))
def test_a_run_goes_over_the_tiers_of_a_worker(length: int, num_host: int, num_device: int, jump: int) -> None:
    """The parents may have been moved to the host already, the children not yet."""
    index = PrefixIndex(jump=jump)
    keys = prompt(0, length)
    num_host = min(num_host, length)
    store(index, holder(0), keys[:num_host], Tier.HOST)
    store(index, holder(0), keys[num_host : num_host + num_device])
    run = min(num_host + num_device, length)
    expected = {holder(0): PrefixMatch(num_blocks=run, num_device_blocks=run - num_host)} if run else {}
    assert index.match(keys) == expected


def test_prompts_that_share_a_start_do_not_mix() -> None:
    index = PrefixIndex()
    shared, one, other = prompt(0, 40), prompt(1, 40), prompt(2, 40)
    store(index, holder(0), shared + one)
    store(index, holder(1), shared + other)
    assert index.match(shared + one)[holder(0)].num_blocks == 80
    assert index.match(shared + one)[holder(1)].num_blocks == 40
    assert index.match(one) == {holder(0): PrefixMatch(num_blocks=40, num_device_blocks=40)}
    assert index.match([]) == {}
    assert index.match(prompt(9, 3)) == {}


def test_removed_blocks_are_not_found() -> None:
    index = PrefixIndex()
    keys = prompt(0, 64)
    for number in range(2):
        store(index, holder(number), keys)
    index.apply(holder(0), Removed(keys=tuple(keys[50:]), tier=Tier.DEVICE))
    index.apply(holder(7), Removed(keys=tuple(keys), tier=Tier.DEVICE))  # never heard of: nothing happens
    index.apply(holder(1), Removed(keys=tuple(keys), tier=Tier.HOST))  # not there: nothing happens
    assert index.match(keys)[holder(0)].num_blocks == 50
    assert index.match(keys)[holder(1)].num_blocks == 64
    index.apply(holder(1), Removed(keys=tuple(keys), tier=Tier.DEVICE))
    index.apply(holder(0), Cleared())
    assert index.match(keys) == {}


def test_an_ended_life_is_forgotten_at_once_and_swept_out_later() -> None:
    index = PrefixIndex()
    keys = prompt(0, 100)
    store(index, holder(0, epoch=1), keys)
    store(index, holder(1), keys[:10])
    index.forget(holder(0, epoch=1))
    assert index.match(keys) == {holder(1): PrefixMatch(num_blocks=10, num_device_blocks=10)}
    assert len(index) == 100
    num_slices = 1
    while index.sweep(max_blocks=30):
        num_slices += 1
    assert num_slices >= 4
    assert len(index) == 10
    assert not index.sweep()


def test_a_bit_is_used_again_only_after_its_sweep() -> None:
    """Else the next worker would seem to hold what the dead one held."""
    index = PrefixIndex()
    keys = prompt(0, 20)
    store(index, holder(0, epoch=1), keys)
    index.forget(holder(0, epoch=1))
    store(index, holder(0, epoch=2), keys[:5])
    assert index.match(keys)[holder(0, epoch=2)].num_blocks == 5
    while index.sweep(max_blocks=3):
        pass
    assert index.match(keys)[holder(0, epoch=2)].num_blocks == 5
    store(index, holder(5), keys[:7])  # takes the recycled bit
    assert index.match(keys)[holder(5)].num_blocks == 7
    assert index.num_holders == 2


def test_lives_that_end_while_a_sweep_runs_are_swept_by_the_next() -> None:
    index = PrefixIndex()
    keys = prompt(0, 50)
    for number in range(3):
        store(index, holder(number), keys)
    index.forget(holder(0))
    assert index.sweep(max_blocks=10)
    index.forget(holder(1))
    index.forget(holder(2))
    while index.sweep(max_blocks=10):
        pass
    assert len(index) == 0


def test_a_snapshot_replaces_what_was_known() -> None:
    index = PrefixIndex()
    keys = prompt(0, 8)
    store(index, holder(0), keys)
    index.replace(holder(0), [Stored(keys=tuple(keys[:3]), tier=Tier.HOST)])
    assert index.match(keys) == {holder(0): PrefixMatch(num_blocks=3, num_device_blocks=0)}


def test_the_bound_holds_and_the_newest_stay() -> None:
    index = PrefixIndex(max_blocks=640)
    for number in range(200):
        store(index, holder(0), prompt(number, 10))
    assert len(index) <= 640
    assert index.num_overflowed >= 2000 - 640
    assert index.match(prompt(199, 10))[holder(0)].num_blocks == 10
    assert index.match(prompt(0, 10)) == {}


def test_random_lives_equal_a_plain_index() -> None:
    draw = random.Random(3)
    index = PrefixIndex(jump=4)
    plain: dict[CacheHolder, dict[int, int]] = {}
    epochs = dict.fromkeys(range(5), 1)
    for _ in range(3000):
        number = draw.randrange(5)
        who = holder(number, epochs[number])
        runs = plain.setdefault(who, {})
        which, length = draw.randrange(6), draw.randrange(1, 30)
        action = draw.random()
        if action < 0.6:
            store(index, who, prompt(which, length))
            runs[which] = max(runs.get(which, 0), length)
        elif action < 0.9 and runs.get(which, 0) > length:
            keys = prompt(which, runs[which])[length:]
            index.apply(who, Removed(keys=tuple(keys), tier=Tier.DEVICE))
            runs[which] = length
        elif action < 0.93:
            index.forget(who)
            plain.pop(who)
            epochs[number] += 1
        else:
            index.sweep(max_blocks=draw.randrange(1, 50))
        for prompt_number in range(6):
            found = {who: match.num_blocks for who, match in index.match(prompt(prompt_number, 30)).items()}
            expected = {who: runs[prompt_number] for who, runs in plain.items() if runs.get(prompt_number)}
            assert found == expected
