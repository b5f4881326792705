"""Pins of prefixes: quotas, renewal, shared blocks, the end of their time."""

import pytest

from tandem.core.ids import Tenant
from tandem.engine.kv.keeps import Keeps
from tandem.prefix_cache.config import PrefixCacheConfig
from tandem.prefix_cache.keys import BlockKey
from tests.fakes.engine_driver import SettableClock

A, B = Tenant("a"), Tenant("b")


def names(count: int, start: int = 0) -> list[BlockKey]:
    return [BlockKey(bytes([start + index]) * 32) for index in range(count)]


def make(num_blocks: int = 40, **settings: float) -> tuple[Keeps, SettableClock]:
    clock = SettableClock()
    return Keeps(PrefixCacheConfig(**settings), num_blocks=num_blocks, clock=clock), clock  # type: ignore[arg-type]


def test_kept_until_its_time_is_over() -> None:
    keeps, clock = make()
    made = keeps.add(A, names(3), 5.0)
    assert (made.num_blocks, made.names, keeps.num_blocks) == (3, tuple(names(3)), 3)
    clock.time_s += 4.9
    assert keeps.expired() == ()
    clock.time_s += 0.2
    assert keeps.expired() == tuple(names(3))
    assert keeps.num_blocks == 0
    assert keeps.expired() == ()


def test_nobody_pins_longer_than_allowed() -> None:
    keeps, clock = make(max_pin_ttl_s=10.0)
    keeps.add(A, names(1), 1e9)
    clock.time_s += 10.1
    assert keeps.expired() == tuple(names(1))


def test_asked_again_it_is_renewed_and_never_shortened() -> None:
    keeps, clock = make()
    keeps.add(A, names(2), 5.0)
    clock.time_s += 4.0
    again = keeps.add(A, names(2), 5.0)
    assert (again.num_blocks, again.names) == (2, ())
    keeps.add(A, names(2), 0.1)
    clock.time_s += 4.0
    assert keeps.expired() == ()
    clock.time_s += 1.1
    assert keeps.expired() == tuple(names(2))


def test_shared_blocks_stay_until_the_last_pin_ends() -> None:
    keeps, clock = make()
    keeps.add(A, names(2), 5.0)
    longer = keeps.add(A, names(4), 50.0)
    assert longer.names == tuple(names(4)[2:])
    other = keeps.add(B, names(2), 20.0)
    assert (other.num_blocks, other.names) == (2, ())
    clock.time_s += 6.0
    assert keeps.expired() == ()
    assert keeps.drop(A) == tuple(names(4)[2:])
    assert keeps.num_blocks == 2
    assert keeps.drop_all() == tuple(names(2))


@pytest.mark.parametrize(("share", "tenant_share", "expected"), [(0.25, 1.0, 10), (1.0, 0.125, 5), (1.0, 1.0, 12)])
def test_quotas_cut_a_pin_short(share: float, tenant_share: float, expected: int) -> None:
    keeps, _ = make(max_pinned_share=share, max_pinned_tenant_share=tenant_share)
    assert keeps.add(A, names(12), 5.0).num_blocks == expected
    assert keeps.num_blocks == expected


def test_one_tenants_quota_is_not_the_others() -> None:
    keeps, _ = make(max_pinned_share=0.25, max_pinned_tenant_share=0.125)  # 10 blocks in all, 5 each
    assert keeps.add(A, names(6), 5.0).num_blocks == 5
    assert keeps.add(A, names(6, start=50), 5.0).num_blocks == 0
    assert keeps.add(B, names(6, start=100), 5.0).num_blocks == 5
    assert keeps.add(Tenant("c"), names(6, start=150), 5.0).num_blocks == 0
    keeps.drop(A)
    assert keeps.add(Tenant("c"), names(6, start=150), 5.0).num_blocks == 5


def test_one_pin_ends_early_the_askers_own_first() -> None:
    keeps, _ = make(max_pinned_share=1.0, max_pinned_tenant_share=1.0)
    keeps.add(A, names(2), 50.0)
    keeps.add(A, names(3), 20.0)
    keeps.add(B, names(2, start=10), 5.0)
    keeps.add(B, names(2, start=20), 1.0)
    assert keeps.end_one(A) == (names(3)[2],), "its own that ends soonest; what its other one holds stays"
    assert keeps.end_one(A) == tuple(names(2))
    assert keeps.end_one(A) == tuple(names(2, start=20)), "then whose time is over first"
    assert keeps.end_one(A) == tuple(names(2, start=10))
    assert keeps.end_one(A) is None
    assert keeps.num_blocks == 0
