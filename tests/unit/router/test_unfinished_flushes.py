"""Flushes that did not reach everybody."""

from dataclasses import replace

from tandem.core.ids import Epoch, Tenant
from tandem.core.types import Role
from tandem.router.cache import flushes
from tandem.router.cache.flushes import KEPT_S, UnfinishedFlushes
from tests.unit.router.builders import make_info

ACME = Tenant("acme")
ONE = make_info("prefill-0", Role.PREFILL)
NEXT = replace(ONE, epoch=Epoch(2))
OTHER = make_info("decode-0", Role.DECODE)


def test_who_did_not_answer_is_asked_until_it_does() -> None:
    open_ones = UnfinishedFlushes()
    open_ones.missed(ACME, ONE, now_s=0.0)
    assert open_ones.due([ONE, OTHER], now_s=1.0) == [(ACME, ONE)]
    assert open_ones.due([OTHER], now_s=2.0) == [], "it is away, not forgotten"
    assert open_ones.due([NEXT], now_s=3.0) == [(ACME, NEXT)]
    open_ones.answered(ACME, NEXT, pending=False, now_s=3.0)
    assert open_ones.due([NEXT], now_s=4.0) == []


def test_who_repeats_it_by_itself_is_asked_again_when_it_starts_again() -> None:
    open_ones = UnfinishedFlushes()
    open_ones.answered(None, ONE, pending=True, now_s=0.0)
    assert open_ones.due([ONE], now_s=1.0) == []
    assert open_ones.due([NEXT], now_s=2.0) == [(None, NEXT)]
    open_ones.answered(None, NEXT, pending=True, now_s=2.0)
    assert open_ones.due([NEXT], now_s=3.0) == []


def test_they_end_with_the_blocks_that_they_are_about_and_are_bounded() -> None:
    open_ones = UnfinishedFlushes()
    for number in range(flushes.MAX_OPEN + 1):
        open_ones.missed(Tenant(f"t{number}"), ONE, now_s=0.0)
    assert len(open_ones.due([ONE], now_s=1.0)) == flushes.MAX_OPEN
    assert open_ones.due([ONE], now_s=KEPT_S + 1.0) == []
