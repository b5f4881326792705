"""Names of blocks: chained, keyed, never shared between tenants or layouts, public only where the operator says so."""

import hashlib

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from tandem.core.errors import InvalidArgument
from tandem.core.ids import Tenant
from tandem.prefix_cache.keys import KEY_BYTES, PrefixKeyer, PrefixSpace, PublicPrefix

SECRET = hashlib.sha256(b"secret").digest()
TOKENS = st.lists(st.integers(0, 2**32 - 1), max_size=40)


def keyer(
    tenant: str = "a", *, layout: str = "l", block_size: int = 4, secret: bytes = SECRET, public: tuple[int, ...] = ()
) -> PrefixKeyer:
    space = PrefixSpace(tenant=Tenant(tenant), layout_fingerprint=layout, block_size=block_size)
    return PrefixKeyer(secret, space, public=(PublicPrefix(token_ids=public),) if public else ())


@given(TOKENS)
def test_one_name_per_full_block(tokens: list[int]) -> None:
    keys = keyer().keys(tokens)
    assert len(keys) == len(tokens) // 4
    assert all(len(key) == KEY_BYTES for key in keys)
    assert len(set(keys)) == len(keys)


@given(TOKENS, TOKENS)
def test_equal_names_mean_equal_prefixes(one: list[int], other: list[int]) -> None:
    ours, theirs = keyer().keys(one), keyer().keys(other)
    for index, (mine, yours) in enumerate(zip(ours, theirs, strict=False)):
        end = 4 * (index + 1)
        assert (mine == yours) == (one[:end] == other[:end])


@given(TOKENS, st.integers(0, 9))
def test_extending_is_the_same_as_naming_at_once(tokens: list[int], cut: int) -> None:
    whole = keyer().keys(tokens)
    cut = min(cut, len(whole))
    if cut:
        assert whole[:cut] + keyer().extend(whole[cut - 1], tokens[4 * cut :]) == whole


@given(TOKENS.filter(lambda tokens: len(tokens) >= 4), st.text(min_size=1), st.text(min_size=1))
def test_two_tenants_never_share_a_name(tokens: list[int], one: str, other: str) -> None:
    try:
        ours, theirs = keyer(one).keys(tokens), keyer(other).keys(tokens)
    except UnicodeEncodeError:
        return
    assert bool(set(ours) & set(theirs)) == (one == other)


def test_everything_that_gives_kv_its_meaning_is_in_the_name() -> None:
    tokens = list(range(8))
    base = keyer().keys(tokens)
    others = [
        keyer(layout="m").keys(tokens),
        keyer(secret=bytes(32)).keys(tokens),
        keyer(block_size=8).keys(tokens),
        keyer().keys(tokens, extra=b"adapter"),
        keyer("al").keys(tokens),
    ]
    for other in others:
        assert not set(base) & set(other)


def test_parts_of_the_key_can_not_run_into_each_other() -> None:
    tokens = list(range(4))
    assert keyer("ab", layout="c").keys(tokens) != keyer("a", layout="bc").keys(tokens)


def test_the_name_is_not_a_plain_hash_of_the_tokens() -> None:
    """Who knows the prompt, and not the secret, can't compute the name."""
    data = b"".join(token.to_bytes(4, "little") for token in range(4))
    assert keyer().keys(range(4))[0] != blake3(bytes(32) + bytes(4) + data).digest()


def test_public_prefixes_are_shared_and_nothing_after_them() -> None:
    public = tuple(range(10))
    prompt = [*public, 90, 91, 92, 93, 94, 95]
    ours, theirs = keyer("a", public=public).keys(prompt), keyer("b", public=public).keys(prompt)
    assert ours[:2] == theirs[:2]  # tokens 0..7
    assert not set(ours[2:]) & set(theirs[2:])  # the block with tokens 8..11 is not wholly public
    assert len(ours) == 4


def test_a_prompt_that_leaves_the_public_prefix_early_shares_the_common_blocks_only() -> None:
    public = tuple(range(12))
    left = [*range(6), 77, 78, *range(8, 12)]
    ours, theirs = keyer("a", public=public).keys(left), keyer("b", public=public).keys(left)
    assert ours[0] == theirs[0]
    assert not set(ours[1:]) & set(theirs[1:])


def test_an_unregistered_prefix_is_not_shared_with_one_that_is() -> None:
    prompt = list(range(8))
    assert not set(keyer("a", public=tuple(prompt)).keys(prompt)) & set(keyer("a").keys(prompt))


def test_an_adapter_is_never_public() -> None:
    prompt = tuple(range(8))
    ours = keyer("a", public=prompt).keys(prompt, extra=b"lora")
    assert not set(ours) & set(keyer("b", public=prompt).keys(prompt, extra=b"lora"))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"secret": b"short"}, "cache.secret"),
        ({"tenant": ""}, "tenant"),
        ({"layout": ""}, "layout_fingerprint"),
        ({"block_size": 0}, "block_size"),
    ],
)
def test_what_is_missing_is_named(changes: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidArgument, match=field):
        keyer(**changes)  # type: ignore[arg-type]


def test_tenant_is_a_required_argument() -> None:
    with pytest.raises(TypeError):
        PrefixSpace(layout_fingerprint="l", block_size=4)  # type: ignore[call-arg]
