"""Tags: a function of tenant, prefix and position, however the prefix was put together; never NaN in the pool."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tandem.chaos.tagged.prefix import PrefixTags
from tandem.chaos.tagged.runner import next_logits
from tandem.chaos.tagged.tags import FINITE, NEVER, lanes, mix

tokens = st.lists(st.integers(0, 319), min_size=1, max_size=200)


def _tags(token_ids: list[int], tenant: str = "t") -> list[int]:
    prefix = PrefixTags(tenant)
    prefix.extend(token_ids)
    tags: list[int] = prefix.tags.tolist()
    return tags


@given(tokens, st.lists(st.integers(1, 60), max_size=8))
def test_growing_in_pieces_is_growing_at_once(token_ids: list[int], pieces: list[int]) -> None:
    prefix, start = PrefixTags("t"), 0
    for size in [*pieces, len(token_ids)]:
        piece = token_ids[start : start + size]
        if piece:
            prefix.extend(piece)
        start += size
    assert prefix.tags.tolist() == _tags(token_ids)


@given(tokens, st.data())
def test_one_other_token_changes_every_tag_from_there_on(token_ids: list[int], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(token_ids) - 1))
    other = [*token_ids[:place], (token_ids[place] + 1) % 320, *token_ids[place + 1 :]]
    same, changed = _tags(token_ids), _tags(other)
    assert same[:place] == changed[:place]
    assert all(a != b for a, b in zip(same[place:], changed[place:], strict=True))


@given(tokens)
def test_every_position_and_every_tenant_has_its_own(token_ids: list[int]) -> None:
    tags = _tags(token_ids)
    assert len({*tags, *_tags(token_ids, "u")}) == 2 * len(tags)


def test_two_tokens_swapped_change_the_tag() -> None:
    assert _tags([5, 9, 7])[-1] != _tags([9, 5, 7])[-1]


def test_words_of_the_pool_are_finite_whatever_the_tag() -> None:
    tags = mix(np.arange(1, 20_000, dtype=np.uint64))
    words = (tags & FINITE)[:, None] ^ lanes(3, 4).reshape(-1)
    assert np.isfinite(words.view(np.float32)).all()
    assert len(np.unique(words)) == words.size


def test_logits_are_spread_and_finite() -> None:
    logits = next_logits().of(mix(np.arange(1, 2_000, dtype=np.uint64)))
    said = logits[:, :314]
    assert np.isfinite(logits).all()
    assert 2.0 < float(said.std()) < 3.0
    assert (logits[:, 314:] == np.float32(NEVER)).all()
    assert len(np.unique(said.argmax(axis=1))) > 280  # every token is said by some prefix
