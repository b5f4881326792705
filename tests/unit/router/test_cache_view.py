"""What the router believes is cached where: by tenant and form of KV, from events and from what it sent itself."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.core.ids import Epoch
from tandem.core.kv_events import BlockKey, KvUpdate, Tier, TierCost
from tandem.core.messages import StartPrefill
from tandem.core.types import Role
from tandem.prefix_cache.tiers.costs import FIRST_COSTS
from tandem.router.actions import WorkerKey
from tandem.router.cache.expected import ExpectedPrefixes
from tandem.router.cache.names import KvForm, PromptNamer
from tandem.router.cache.naming import PromptNaming
from tandem.router.fleet import Fleet
from tandem.router.health import HealthTimers
from tandem.router.live import DispatcherPolicy
from tandem.router.placement import CachedPrefix, PlacementMode, PlacementPolicy
from tests.unit.router.builders import P2, D, P, make_info, make_task, make_view
from tests.unit.router.cached import (
    BLOCK,
    hold,
    keyer,
    make_cache_view,
    make_program,
    names_of,
    stored,
    tell,
)
from tests.unit.router.world import World, done

PREFILLS = [make_view("prefill-0", Role.PREFILL), make_view("prefill-1", Role.PREFILL)]


# --- names -------------------------------------------------------------------------------------------------------


def test_a_router_names_blocks_as_the_workers_do() -> None:
    namer = PromptNamer(make_program())
    assert namer.name(names_of(100), KvForm("l", BLOCK)) == keyer().keys(tuple(range(100)))


@given(
    st.lists(st.integers(0, 2**32 - 1), min_size=BLOCK, max_size=4 * BLOCK), st.text(min_size=1), st.text(min_size=1)
)
def test_two_tenants_never_share_a_name(tokens: list[int], a: str, b: str) -> None:
    namer, form = PromptNamer(make_program()), KvForm("l", BLOCK)
    one, two = (set(namer.name(names_of(tuple(tokens), tenant), form)) for tenant in (a, b))
    assert len(one) == len(tokens) // BLOCK
    assert one == two if a == b else not one & two


def test_public_prefixes_are_shared_and_nothing_after_them() -> None:
    public = tuple(range(2 * BLOCK))
    namer, form = PromptNamer(make_program(public=public)), KvForm("l", BLOCK)
    tokens = tuple(range(4 * BLOCK))
    one, two = (namer.name(names_of(tokens, tenant), form) for tenant in ("a", "b"))
    assert one[:2] == two[:2]
    assert not set(one[2:]) & set(two[2:])


@pytest.mark.parametrize("program", [make_program(enabled=False), make_program().model_copy(update={"secret": None})])
def test_without_cache_or_secret_nothing_has_a_name(program: object) -> None:
    view = make_cache_view(program)  # type: ignore[arg-type]
    assert not view.namer.is_on
    assert view.cached(names_of(100), PREFILLS, 0.0) == {}
    view.expect(names_of(100), PREFILLS, 0.0)
    assert view.index_status().num_expected == 0


async def test_a_long_prompt_is_named_before_anybody_waits_for_it() -> None:
    fleet = Fleet(HealthTimers())
    fleet.apply([make_info("prefill-0", Role.PREFILL)])
    view = make_cache_view(off_loop_tokens=64)
    naming = PromptNaming(view.namer, fleet, view._section)
    short, long = await naming.names_of(make_task(prompt=64)), await naming.names_of(make_task(prompt=65))
    assert short is not None
    assert short.by_form == {}
    assert long is not None
    assert long.by_form == {KvForm("l", BLOCK): keyer().keys(tuple(range(65)))}


# --- what is held ------------------------------------------------------------------------------------------------


def test_held_blocks_count_for_their_worker_and_tenant() -> None:
    view = make_cache_view()
    hold(view, P, stored(64))
    assert view.cached(names_of(100), PREFILLS, 100.0) == {P: CachedPrefix(num_tokens=64)}
    assert view.cached(names_of(100, "rival"), PREFILLS, 100.0) == {}


def test_another_form_of_kv_is_never_found() -> None:
    view = make_cache_view()
    hold(view, P, stored(64))
    other = replace(PREFILLS[0], layout_fingerprint="other")
    assert view.cached(names_of(100), [other], 100.0) == {}


def test_a_slower_tier_costs_a_fetch() -> None:
    """What the worker measured, by tier; until it has told, what a worker takes it for in the beginning."""
    view = make_cache_view()
    hold(view, P, stored(32), stored(48, tier=Tier.HOST), stored(64, tier=Tier.REMOTE))
    seen = replace(PREFILLS[0], kv_bytes_per_token=10.0)

    def found() -> CachedPrefix:
        (prefix,) = view.cached(names_of(100), [seen], 100.0).values()
        return prefix

    host, remote = FIRST_COSTS[Tier.HOST], FIRST_COSTS[Tier.REMOTE]
    assert (found().num_tokens, found().num_slow_tokens) == (64, 32)
    assert found().fetch_s == pytest.approx(
        host.fixed_s + remote.fixed_s + 16 * 10.0 * (host.s_per_byte + remote.s_per_byte)
    )
    costs = (
        TierCost(tier=Tier.HOST, fixed_s=0.5, s_per_byte=0.001),
        TierCost(tier=Tier.REMOTE, fixed_s=2.0, s_per_byte=0.1),
    )
    view.on_update(P, KvUpdate(epoch=P.epoch, last_sequence=3, costs=costs), 100.0)
    assert found().fetch_s == pytest.approx(2.5 + 16 * 10.0 * 0.101)


def test_old_news_is_no_news() -> None:
    view = make_cache_view(stale_after_s=5.0)
    hold(view, P, stored(64), now_s=100.0)
    assert view.cached(names_of(100), PREFILLS, 105.0)
    assert not view.cached(names_of(100), PREFILLS, 105.1)
    state = view.follow_state(P, 105.1)
    assert state is not None
    assert state.stale_s == pytest.approx(5.1)


def test_a_missing_event_forgets_the_worker_until_its_snapshot() -> None:
    view = make_cache_view()
    hold(view, P, stored(64))
    assert not tell(view, P, stored(96), sequence=3), "number 2 is missing"
    assert view.cached(names_of(100), PREFILLS, 100.0) == {}
    ask = view.follow_from(P)
    assert (ask.epoch, ask.start_sequence) == (None, 1)
    hold(view, P, stored(96), sequence=3)
    assert view.cached(names_of(100), PREFILLS, 100.0) == {P: CachedPrefix(num_tokens=96)}
    state = view.follow_state(P, 100.0)
    assert state is not None
    assert (state.num_gaps, state.num_snapshots) == (1, 2)


def test_a_life_that_is_over_holds_nothing() -> None:
    view = make_cache_view()
    hold(view, P, stored(64))
    view.expect(names_of(64), PREFILLS[:1], 100.0)
    view.on_gone(P)
    reborn = WorkerKey(worker_id=P.worker_id, epoch=Epoch(2))
    views = [PREFILLS[0], replace(PREFILLS[0], key=reborn)]
    assert view.cached(names_of(100), views, 100.0) == {}
    hold(view, reborn, stored(32))
    assert view.cached(names_of(100), views, 100.0) == {reborn: CachedPrefix(num_tokens=32)}
    assert not tell(view, P, stored(64), sequence=2), "the old life's stream must be ended"


# --- what is expected --------------------------------------------------------------------------------------------


def keys(count: int) -> tuple[BlockKey, ...]:
    return tuple(BlockKey(number.to_bytes(32, "big")) for number in range(count))


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("asked", [1, 2, 50, 101])
def test_the_end_of_what_is_expected_is_found(count: int, asked: int) -> None:
    expected = ExpectedPrefixes(max_blocks=1000, expect_s=10.0)
    expected.expect(P, keys(count), 0.0)
    assert expected.num_expected(P, keys(asked), 5.0) == min(count, asked)
    assert expected.num_expected(P2, keys(asked), 5.0) == 0
    assert expected.num_expected(P, keys(asked), 10.0) == 0, "it has ended"


def test_expectations_are_bounded_and_end() -> None:
    expected = ExpectedPrefixes(max_blocks=100, expect_s=10.0)
    for number in range(50):
        prompt = tuple(BlockKey(bytes([number]) * 31 + bytes([index])) for index in range(20))
        expected.expect((P, P2)[number % 2], prompt, float(number) / 100)
        assert len(expected) <= 100
    newest = tuple(BlockKey(bytes([49]) * 31 + bytes([index])) for index in range(20))
    assert expected.num_expected(P2, newest, 1.0) == 20, "the oldest go first"
    expected.sweep(20.0)
    assert len(expected) == 0
    expected.expect(P, keys(500), 0.0)
    assert len(expected) == 100, "a prompt that is too long is expected in part"
    expected.forget(P)
    assert len(expected) == 0


def split_world(*, max_expected_blocks: int = 1000) -> World:
    policy = DispatcherPolicy(placement=PlacementPolicy(mode=PlacementMode.SPLIT, tie_share=None))
    return World(P, P2, D, policy=policy, cache=make_cache_view(max_expected_blocks=max_expected_blocks))


def prefilled_by(world: World) -> list[str]:
    return [worker.worker_id for worker, command in world.sent if isinstance(command, StartPrefill)]


def test_the_next_request_with_the_same_start_follows_the_first() -> None:
    """Before any worker has told anything: the router knows what it sent where."""
    world = split_world()
    for name in ("a", "b", "c"):
        world.submit(name, prompt=200)
        world.report(P, events=(done(name),))
    assert prefilled_by(world) == ["prefill-0"] * 3
    spread = split_world(max_expected_blocks=0)
    spread.submit("a", prompt=200)
    spread.submit("b", prompt=200)
    assert prefilled_by(spread) == ["prefill-0", "prefill-1"], "unknown, the idle one is better"


def test_what_a_worker_told_decides_over_the_name() -> None:
    view = make_cache_view()
    hold(view, P2, stored(192))
    policy = DispatcherPolicy(placement=PlacementPolicy(mode=PlacementMode.SPLIT, tie_share=None))
    world = World(P, P2, D, policy=policy, cache=view)
    world.submit("a", prompt=200)
    assert prefilled_by(world) == ["prefill-1"]
    world.submit("b", prompt=200, tenant="rival")
    assert prefilled_by(world)[1] == "prefill-0", "of another tenant nothing is known"


def test_a_decode_worker_that_holds_the_prompt_computes_the_rest_itself() -> None:
    view = make_cache_view()
    hold(view, D, stored(192))
    world = World(P, P2, D, cache=view)
    world.submit("a", prompt=200)
    assert prefilled_by(world) == []
    assert world.dispatcher.serving.cause == "local_is_faster"


def test_the_page_of_settings_is_whole(tmp_path: Path) -> None:
    section = make_cache_view()._section
    assert all(field.description for field in type(section).model_fields.values())


def test_what_is_cached_is_no_work_for_the_queue() -> None:
    """Else requests whose prompts are cached would be refused for work that nobody has to do."""
    world = split_world()
    assert world.dispatcher.fleet.typical_prefill_s(100, num_cached_tokens=99) < (
        world.dispatcher.fleet.typical_prefill_s(100)
    )
    placer = world.dispatcher._placer
    unknown = placer.entry_of(make_task(prompt=200), names_of(200), deadline_s=None, arrived_s=100.0)
    world.submit("a", prompt=200)
    known = placer.entry_of(make_task(prompt=200), names_of(200), deadline_s=None, arrived_s=100.0)
    assert known.work_s < unknown.work_s
    assert unknown.cost_tokens - known.cost_tokens == pytest.approx(0.9 * 192), "cached tokens cost a tenth"
