"""The shape of a cache: only leaves that nobody uses can go, quotas decide whose, and the books always balance."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.core.errors import InternalError
from tandem.core.ids import Tenant
from tandem.prefix_cache.eviction.lru import Lru
from tandem.prefix_cache.eviction.policy import BlockValue
from tandem.prefix_cache.eviction.weighted_lru import WeightedLru
from tandem.prefix_cache.keys import BlockKey
from tandem.prefix_cache.shares import Weights
from tandem.prefix_cache.tree import CacheTree, PolicyFactory

VALUE = BlockValue(recompute_s=1.0)
A, B = Tenant("a"), Tenant("b")


def name(text: str) -> BlockKey:
    return BlockKey(text.encode())


def chain(tree: CacheTree, text: str, tenant: Tenant = A) -> list[BlockKey]:
    """Serve a prompt whose blocks are its letters: use what is cached, add the rest; return its keys."""
    keys = [name(text[: end + 1]) for end in range(len(text))]
    held = tree.num_held(keys)
    tree.use(keys[:held])
    for index in range(held, len(keys)):
        tree.add(tenant, keys[index], keys[index - 1] if index else None, VALUE)
    return keys


def evict(tree: CacheTree) -> str | None:
    victim = tree.victim()
    if victim is None:
        return None
    tree.drop(victim)
    return victim.decode()


def test_a_prompt_is_given_up_from_its_end() -> None:
    tree = CacheTree(Lru)
    tree.unuse(chain(tree, "abc"))
    assert [evict(tree) for _ in range(4)] == ["abc", "ab", "a", None]
    assert len(tree) == 0


def test_nothing_in_use_goes_nor_what_it_stands_on() -> None:
    tree = CacheTree(Lru)
    kept = chain(tree, "abc")
    tree.unuse(chain(tree, "abx"))
    assert [evict(tree) for _ in range(2)] == ["abx", None]
    tree.unuse(kept)
    assert evict(tree) == "abc"


def test_a_shared_start_stays_until_its_last_follower_goes() -> None:
    tree = CacheTree(Lru)
    tree.unuse(chain(tree, "ab"))
    tree.unuse(chain(tree, "ac"))
    assert [evict(tree) for _ in range(3)] == ["ab", "ac", "a"]


@pytest.mark.parametrize("make_policy", [Lru, WeightedLru])
def test_an_old_prompt_goes_whole_before_a_newer_one(make_policy: PolicyFactory) -> None:
    """What becomes the end of a prompt when its last block goes is as old as it was: it does not go to the back."""
    tree = CacheTree(make_policy)
    for text in ("abc", "pq", "x"):
        tree.unuse(chain(tree, text))
    assert [evict(tree) for _ in range(6)] == ["abc", "ab", "a", "pq", "p", "x"]


def test_a_block_was_last_used_when_its_last_reader_let_go() -> None:
    tree = CacheTree(Lru)
    long, other = chain(tree, "a"), chain(tree, "a")
    tree.unuse(chain(tree, "p"))
    tree.unuse(long)
    tree.unuse(chain(tree, "q"))
    tree.unuse(other)
    assert [evict(tree) for _ in range(3)] == ["p", "q", "a"]


def test_a_use_saves_a_prompt() -> None:
    tree = CacheTree(Lru)
    tree.unuse(chain(tree, "p"))
    tree.unuse(chain(tree, "q"))
    tree.unuse(chain(tree, "p"))
    assert evict(tree) == "q"


def test_defects_are_loud() -> None:
    tree = CacheTree(Lru)
    keys = chain(tree, "ab")
    with pytest.raises(InternalError, match="already"):
        tree.add(A, keys[0], None, VALUE)
    with pytest.raises(InternalError, match="not cached"):
        tree.add(A, name("zz"), name("z"), VALUE)
    with pytest.raises(InternalError, match="not cached"):
        tree.use([name("z")])
    with pytest.raises(InternalError, match="used or followed"):
        tree.drop(keys[0])
    tree.unuse(keys)
    with pytest.raises(InternalError, match="more often"):
        tree.unuse(keys)
    with pytest.raises(InternalError, match="used or followed"):
        tree.drop(keys[0])


def test_a_flood_evicts_the_flooder() -> None:
    tree = CacheTree(Lru)
    tree.unuse(chain(tree, "victim", B))
    for number in range(40):
        if len(tree) >= 20:
            evicted = evict(tree)
            assert evicted is not None
            assert evicted.startswith("#")
        keys = [name(f"#{number}")]
        tree.add(A, keys[0], None, VALUE)
        tree.unuse(keys)
    assert tree.num_blocks_of(B) == 6
    assert tree.num_blocks_of(A) == 14


@settings(max_examples=100)
@given(
    st.dictionaries(st.sampled_from([A, B, Tenant("c")]), st.sampled_from([0.25, 0.5, 1.0, 2.0, 5.0])),
    st.lists(st.sampled_from([A, B, Tenant("c")]), min_size=60, max_size=200),
)
def test_who_wants_more_than_its_share_keeps_its_share(weights: dict[Tenant, float], asks: list[Tenant]) -> None:
    """Each tenant keeps what it asked for, up to its weight's share of the room, whatever the order of the asks."""
    room = 30
    tree = CacheTree(Lru, weights=Weights(weights))
    for number, tenant in enumerate(asks):
        key = name(f"#{number}")
        tree.add(tenant, key, None, VALUE)
        tree.unuse([key])
        while len(tree) > room:
            assert evict(tree) is not None
    total = sum(weights.get(tenant, 1.0) for tenant in set(asks))
    for tenant in set(asks):
        share = int(room * weights.get(tenant, 1.0) / total)
        assert tree.num_blocks_of(tenant) >= min(asks.count(tenant), share) - 1  # the last one in went over


def test_a_tenant_under_its_quota_gives_up_when_nobody_else_can() -> None:
    tree = CacheTree(Lru)
    tree.unuse(chain(tree, "b", B))
    chain(tree, "inuse", A)
    assert evict(tree) == "b"


@settings(max_examples=150)
@given(st.lists(st.tuples(st.text("ab", min_size=1, max_size=6), st.sampled_from([A, B]), st.booleans()), max_size=40))
def test_the_books_balance(steps: list[tuple[str, Tenant, bool]]) -> None:
    """Any mix of serving, finishing and evicting: counts equal a recount, and every cached block can be reached."""
    tree = CacheTree(Lru)
    serving: list[list[BlockKey]] = []
    ever: set[str] = set()
    for text, tenant, finish in steps:
        serving.append(chain(tree, text, tenant))
        ever.update(text[: end + 1] for end in range(len(text)))
        if finish:
            tree.unuse(serving.pop(0))
        while len(tree) > 8:
            if evict(tree) is None:
                break
        cached = {prefix for prefix in ever if name(prefix) in tree}
        assert len(cached) == len(tree) == tree.num_blocks_of(A) + tree.num_blocks_of(B)
        assert all(prefix[:-1] in cached for prefix in cached if len(prefix) > 1)
        assert all(name_ in tree for keys in serving for name_ in keys)
    for keys in serving:
        tree.unuse(keys)
    while evict(tree) is not None:
        pass
    assert len(tree) == 0
