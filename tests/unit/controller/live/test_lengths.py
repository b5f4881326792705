"""How much requests under way will have written, from those that ended and those that did not."""

import random

import pytest

from tandem.controller.live.lengths import Lengths


def test_where_all_have_ended_it_is_the_mean_of_the_longer_ones() -> None:
    lengths = Lengths([10, 20, 30, 40], [])
    assert lengths.total(0) == pytest.approx(25.0)
    assert lengths.total(15) == pytest.approx(30.0)
    assert lengths.total(20) == pytest.approx(35.0)
    assert lengths.total(35) == pytest.approx(40.0)


def test_what_is_still_being_written_counts_as_longer() -> None:
    """The long answers have not ended yet: by those that have, every answer is short."""
    lengths = Lengths([10] * 10, [50] * 10)
    assert lengths.total(0) > 10 * 0.5 + 50 * 0.5 - 1
    assert lengths.total(20) > 50


def test_beyond_all_that_was_seen_as_much_again_is_expected() -> None:
    assert Lengths([10], []).total(30) == 60.0
    assert Lengths([], [30]).total(30) == 60.0
    assert Lengths([], []).total(0) == 1.0


def test_nothing_is_expected_to_end_before_what_it_has_written() -> None:
    dice = random.Random(3)
    for _ in range(200):
        ended = [dice.randint(1, 99) for _ in range(dice.randint(0, 9))]
        written = [dice.randint(0, 120) for _ in range(dice.randint(0, 9))]
        lengths = Lengths(ended, written)
        assert all(lengths.total(each) >= each for each in written)


def test_answers_cut_off_by_the_moment_of_looking_do_not_shorten_the_estimate() -> None:
    """Requests come all the time and write one token a second: those that ended until now are the short ones."""
    dice = random.Random(1)
    requests = [(dice.uniform(0, 100), dice.choice((20, 200))) for _ in range(4000)]
    over = [total for came, total in requests if came + total <= 100]
    written = [int(100 - came) for came, total in requests if came + total > 100]
    assert set(over) == {20}, "none of the long ones has ended"
    expected = [*over, *(Lengths(over, written).total(each) for each in written)]
    assert sum(over) / len(over) == 20
    assert sum(expected) / len(expected) == pytest.approx(110, rel=0.25)
