"""The prefix-cache benchmark's arithmetic: what counts, what is equal, what a cached token costs."""

import pytest

from benchmarks.prefix_cache import result_of
from benchmarks.prefix_cache_play import OFF, ON, Played, Sample, summarise
from benchmarks.prefix_cache_uses import Goal, Sizes, Use, make_uses
from tandem.core.types import Usage
from tests.fakes.engine_driver import TOKENIZER


def sample(ttft_s: float, cached: int, *, token: int = 1) -> Sample:
    usage = Usage(prompt_tokens=1000, cached_tokens=cached, output_tokens=10)
    return Sample(ttft_s=ttft_s, usage=usage, token_ids=(token,), text="x")


def use(*, is_conversation: bool = False, num_warming: int = 1) -> Use:
    return Use(
        name="u",
        opening=(),
        asks=("a", "b", "c"),
        is_conversation=is_conversation,
        num_warming=num_warming,
        max_tokens=4,
        goal=Goal(ttft_saved=0.5, cost_saved=0.9),
    )


def played(of: Use) -> Played:
    on = [sample(4.0, 0), sample(0.5, 990), sample(0.5, 990)]
    return Played(use=of, samples={ON: on, OFF: [sample(4.0, 0), sample(4.0, 0), sample(2.0, 0)]})


def test_what_warms_does_not_count() -> None:
    figure = summarise(played(use()))
    assert figure["asks"] == 2
    assert figure["ttft_saved"] == pytest.approx(1 - 0.5 / 3.0, abs=1e-4)
    assert figure["cost_saved"] == pytest.approx(0.9 * 0.99, abs=1e-4)
    assert figure["cost_saved_with_warming"] == pytest.approx(0.9 * 0.99 * 2 / 3, abs=1e-4)
    assert figure["cost_saved_with_output"] == pytest.approx(1 - (109 + 50) / 1050, abs=1e-4)
    assert (figure["tokens_not_recomputed"], figure["tokens_not_recomputed_off"]) == (1980, 0)


def test_every_turn_of_a_conversation_counts() -> None:
    figure = summarise(played(use(is_conversation=True, num_warming=0)))
    assert figure["asks"] == 3
    assert figure["ttft_saved"] == pytest.approx(0.5)


def test_a_differing_answer_is_a_mismatch() -> None:
    one = played(use())
    assert one.num_mismatches() == 0
    one.samples[ON][2] = sample(0.5, 990, token=2)
    assert one.num_mismatches() == 1


def test_goals_are_compared_at_whole_percents() -> None:
    figure = summarise(played(use()))
    assert figure["cost_saved"] == 0.891
    assert not result_of({"u": figure})["goals_met"]
    assert result_of({"u": {**figure, "cost_saved": 0.8951}})["goals_met"]
    assert result_of({"u": figure})["u_cost_saved"] == 0.891


def test_uses_have_the_lengths_asked_for_and_share_nothing_by_accident() -> None:
    sizes = Sizes(document_tokens=900, instruction_tokens=500, system_tokens=300)
    uses = make_uses(sizes, TOKENIZER)
    assert [one.name for one in uses] == ["document", "manyshot", "chat"]
    lengths = [len(TOKENIZER.encode(one.opening[0].content)) for one in uses]
    assert lengths[0] == pytest.approx(900, abs=4)
    assert 400 < lengths[1] <= 500
    assert lengths[2] == pytest.approx(330, abs=30)
    beginnings = {one.opening[0].content[:16] for one in uses}
    assert len(beginnings) == 3
    for one in uses:
        assert len(set(one.asks)) == len(one.asks) > one.num_warming
    assert make_uses(sizes, TOKENIZER) == uses
    with pytest.raises(ValueError, match="have"):
        make_uses(Sizes(document_tokens=10**8), TOKENIZER)
