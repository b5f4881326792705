"""Tenants share room by their weights: nobody's flood takes what another may keep."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.core.ids import Tenant
from tandem.prefix_cache.keys import BlockKey
from tandem.prefix_cache.shares import SharedLru, Weights
from tandem.prefix_cache.tiers.host import HostEntry
from tandem.prefix_cache.tiers.remote_queue import RemoteQueue

TENANTS = [Tenant("ann"), Tenant("bob"), Tenant("cy")]
ANN, BOB, CY = TENANTS
WEIGHTS = st.dictionaries(st.sampled_from(TENANTS), st.sampled_from([0.25, 0.5, 2.0, 5.0]))


def name(number: int) -> BlockKey:
    return BlockKey(number.to_bytes(32, "big"))


@settings(max_examples=150)
@given(WEIGHTS, st.lists(st.tuples(st.sampled_from(TENANTS), st.integers(1, 9)), min_size=1, max_size=120))
def test_each_keeps_what_it_wants_up_to_its_share(weights: dict[Tenant, float], asks: list[tuple[Tenant, int]]) -> None:
    room, largest = 90, 9
    values: SharedLru[int] = SharedLru(Weights(weights))
    wanted: Counter[Tenant] = Counter()
    for number, (tenant, num_bytes) in enumerate(asks):
        wanted[tenant] += num_bytes
        values.put(name(number), tenant, num_bytes, number)
        while values.num_bytes > room:
            victim = values.victim()
            assert victim is not None
            values.pop(victim)
    total = sum(weights.get(tenant, 1.0) for tenant in wanted)
    for tenant, num_bytes in wanted.items():
        share = room * weights.get(tenant, 1.0) / total
        assert values.num_bytes_of(tenant) > min(num_bytes, share) - largest
    assert values.num_bytes == sum(values.num_bytes_of(tenant) for tenant in TENANTS) <= room
    assert len(values) == sum(len(values.keys_of(tenant)) for tenant in TENANTS) == len(values.keys_of(None))


def test_the_least_recently_used_of_a_tenant_goes() -> None:
    values: SharedLru[str] = SharedLru(Weights())
    for number in range(3):
        values.put(name(number), ANN, 1, "x")
    values.put(name(9), BOB, 1, "y")
    values.touch(name(0))
    assert values.victim() == name(1)
    values.put(name(1), ANN, 1, "renewed")
    assert (values.victim(), values.get(name(1)), values.num_bytes) == (name(2), "renewed", 4)
    assert values.pop(name(2)) == "x"
    assert values.pop(name(2)) is None
    assert values.keys_of(ANN) == (name(0), name(1))
    assert SharedLru[str](Weights()).victim() is None


def entry(number: int, tenant: Tenant) -> HostEntry:
    return HostEntry(name(number), tenant, b"")


def test_a_flood_towards_redis_leaves_the_others_their_places() -> None:
    queue = RemoteQueue(Weights(), capacity=8)
    assert [queue.add(entry(number, ANN), 0) for number in range(20)] == [True] * 8 + [False] * 12
    assert not queue.add(entry(100, BOB), 3), "one of the flood had no room"
    assert len(queue) == 8
    left = list(iter(queue.pop, None))
    assert [waiting.key for waiting, _ in left] == [*map(name, range(7)), name(100)]
    assert left[-1] == (entry(100, BOB), 3)


def test_a_heavier_tenant_keeps_more_places() -> None:
    queue = RemoteQueue(Weights({ANN: 3.0}), capacity=8)
    for number in range(40):
        queue.add(entry(number, (ANN, BOB)[number % 2]), 0)
    assert Counter(waiting.tenant for waiting, _ in iter(queue.pop, None)) == {ANN: 6, BOB: 2}
