"""Which rounds are told: what is new at once, what only repeats itself now and then."""

from dataclasses import replace

import pytest

from tandem.controller.deciding.values import DecisionRecord, SwitchRoles, Verdict
from tandem.controller.live.telling import SAME_FOR_S, News
from tandem.controller.policy.bounds import Split
from tandem.core.decisions import ControllerRound
from tandem.core.types import Role
from tests.fakes.live_world import fixed, small_world

HOLD = DecisionRecord(
    time_s=0.0,
    policy="p",
    verdict=Verdict.HOLD,
    reason="ttft 0.41 s of 0.8 s",
    current=Split(prefill=1, decode=2),
    wished=Split(prefill=2, decode=1),
    clamps=("cool-down: 12 s left",),
)
SWITCH = SwitchRoles(workers=(), to=Role.DECODE)


def test_a_repetition_is_told_every_half_minute() -> None:
    news = News()
    told = [at_s for at_s in range(0, 100, 5) if news.is_new(HOLD, term=1, now_s=float(at_s))]
    assert told == [0, 30, 60, 90]
    assert SAME_FOR_S == 30.0


def test_numbers_that_differ_in_words_are_no_news() -> None:
    news = News()
    assert news.is_new(HOLD, term=1, now_s=0.0)
    later = replace(HOLD, time_s=5.0, reason="ttft 0.5 s of 0.8 s", clamps=("cool-down: 7 s left",), numbers={"x": 1.0})
    assert not news.is_new(later, term=1, now_s=5.0)


@pytest.mark.parametrize(
    "other",
    [
        replace(HOLD, policy="q"),
        replace(HOLD, verdict=Verdict.FREEZE),
        replace(HOLD, reason="metrics are stale"),
        replace(HOLD, current=Split(prefill=2, decode=1)),
        replace(HOLD, wished=None),
        replace(HOLD, borrow_share=0.25),
        replace(HOLD, clamps=("dwell: not wanted for 12 s yet",)),
        replace(HOLD, clamps=()),
    ],
    ids=repr,
)
def test_what_differs_is_news_and_so_is_the_way_back(other: DecisionRecord) -> None:
    news = News()
    assert news.is_new(HOLD, term=1, now_s=0.0)
    assert news.is_new(other, term=1, now_s=1.0)
    assert not news.is_new(other, term=1, now_s=2.0)
    assert news.is_new(HOLD, term=1, now_s=3.0)
    assert news.is_new(HOLD, term=2, now_s=4.0), "another term"


def test_every_move_is_news() -> None:
    news = News()
    move = replace(HOLD, verdict=Verdict.MOVE, move=SWITCH)
    assert [news.is_new(move, term=1, now_s=at_s) for at_s in (0.0, 1.0)] == [True, True]


def test_an_advice_that_is_repeated_every_round_is_told_as_a_repetition() -> None:
    news = News()
    advice = replace(HOLD, verdict=Verdict.ADVISE, move=SWITCH)
    assert [news.is_new(advice, term=1, now_s=at_s) for at_s in (0.0, 5.0, 10.0, 30.0)] == [True, False, False, True]
    other = replace(advice, move=replace(SWITCH, to=Role.PREFILL))
    assert news.is_new(other, term=1, now_s=31.0)


async def test_a_quiet_cluster_is_told_of_little_and_every_round_is_still_decided() -> None:
    world = small_world()
    await world.apply(fixed(2, 2))
    await world.run(world.controller(), 100)
    assert len(world.rounds) >= 95
    assert 4 <= len(world.told) <= 6
    await world.apply(fixed(3, 1))
    before = len(world.told)
    await world.run(world.controller("a"), 15)  # its next life
    since = [one.detail for one in world.told[before:] if isinstance(one.detail, ControllerRound)]
    assert "move" in {one.verdict for one in since}
    assert (since[-1].current_prefill, since[-1].current_decode) == (3, 1), "and of how it ended"
