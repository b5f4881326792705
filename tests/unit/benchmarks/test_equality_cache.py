"""What the cached equality runs ask, and the witness of what may be found: both must be able to see a fault."""

from dataclasses import replace

from benchmarks.equality_cache import SETTINGS, CacheCounts
from benchmarks.equality_cache_run import CacheGroup, CacheRun, summarise
from benchmarks.equality_cache_script import BLOCK, TENANTS, Case, Script, Witness, batches, make_script, pinned
from benchmarks.equality_cases import Answer, Counts
from tandem.core.limits import ModelLimits, RequestLimits, check_task
from tandem.core.types import GenerationTask, KvSource
from tandem.prefix_cache.eviction.choice import EvictionName


def answer(task: GenerationTask) -> Answer:
    return [tuple(range(10 + child, 14 + child)) for child in range(task.num_sequences)]


def script(seed: int = 1) -> Script:
    return make_script(seed=seed, vocab_size=300, answer=answer)


def blocks_of(case: Case) -> list[tuple[int, ...]]:
    prompt = case.task.prompt_token_ids
    return [prompt[start : start + BLOCK] for start in range(0, len(prompt) - BLOCK + 1, BLOCK)]


def test_every_tenant_says_the_same_and_every_task_is_valid() -> None:
    cases = script().cases
    assert len(cases) == 36
    said = {t: sorted(c.task.prompt_token_ids for c in cases if c.task.tenant == t) for t in TENANTS}
    assert said[TENANTS[0]] == said[TENANTS[1]] == said[TENANTS[2]]
    for case in cases:
        check_task(pinned(case).task, ModelLimits(vocab_size=300, max_context_tokens=1024), RequestLimits())
    assert {case.task.num_sequences for case in cases} == {1, 2, 3}
    assert {case.source for case in cases} == set(KvSource)
    assert {case.task.sampling.temperature > 0 for case in cases} == {False, True}
    assert script() == script() != script(seed=2)


def test_the_same_block_stands_at_several_places_and_has_a_twin() -> None:
    cases = script().cases
    placed = {(block, place) for case in cases for place, block in enumerate(blocks_of(case))}
    all_blocks = {block for block, _ in placed}
    assert any(len({place for other, place in placed if other == block}) > 1 for block in all_blocks)
    assert any(a != b and a[:-1] == b[:-1] for a in all_blocks for b in all_blocks)


def test_turns_never_run_together() -> None:
    cases = script().cases
    groups = list(batches(cases, 5))
    assert [case for group in groups for case in group] == list(cases)
    assert all(len({case.turn for case in group}) == 1 and len(group) <= 5 for group in groups)


def test_the_witness_knows_what_a_tenant_can_have_left() -> None:
    first = next(c for c in script().cases if c.turn == 0 and len(c.task.prompt_token_ids) > 2 * BLOCK)
    prompt = first.task.prompt_token_ids
    again = replace(first, task=replace(first.task, request_id="again"))  # type: ignore[arg-type]
    foreign = replace(again, task=replace(again.task, tenant="other"))  # type: ignore[arg-type]
    witness = Witness()
    witness.runs(first)
    assert witness.most_cached(first) == 0, "a request finds nothing of its own"
    assert witness.most_cached(again) == (len(prompt) - 1) // BLOCK * BLOCK
    assert witness.most_cached(foreign) == 0
    changed = replace(again, task=replace(again.task, prompt_token_ids=(*prompt[: BLOCK + 3], 299, *prompt)))
    assert witness.most_cached(changed) == BLOCK
    assert Witness(public=prompt[:BLOCK]).most_cached(foreign) == BLOCK


def test_settings_cover_every_policy_quotas_and_sharing() -> None:
    assert {s.cache["eviction"] for s in SETTINGS if "eviction" in s.cache} == set(EvictionName)
    assert any(s.with_pins and "tenant_weights" in s.cache for s in SETTINGS)
    assert any(s.with_public for s in SETTINGS)


def test_the_summary_adds_up() -> None:
    found = CacheCounts(counts=Counts(cases=3, mismatches=1, handed_over=2), foreign=1, cached_tokens=5)
    group = CacheGroup(model="m", setting="s", processes="one", found=found)
    result = summarise(CacheRun(groups=(group, group), noticed={"x": True, "y": False}))
    assert (result["cases"], result["mismatches"], result["foreign"], result["cached_tokens"]) == (6, 2, 2, 10)
    assert (result["planted"], result["planted_found"]) == (2, 1)
