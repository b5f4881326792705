"""Prompts that begin alike: what is computed, what is said to be cached, and that nobody can tell from the tokens."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from tandem.core.errors import Overloaded
from tandem.core.ids import Tenant
from tandem.core.messages import AttemptFailed, PrefillDone
from tandem.core.reasons import ENGINE, NUMERICS
from tandem.core.types import GenerationTask, SamplingParams, StopParams
from tandem.engine.batch import ForwardBatch
from tandem.engine.engine import Engine
from tandem.prefix_cache.eviction.choice import EvictionName
from tests.fakes.engine_driver import (
    Collected,
    SettableClock,
    assert_idle,
    copy_blocks,
    drive,
    filled_refs,
    key_of,
    make_cache,
    make_engine,
    make_task,
    run_local,
)
from tests.fakes.fake_runner import FakeRunner, reference_tokens

PROMPT = tuple(range(10, 31))  # five full blocks of 4 and one token
LONG = StopParams(max_tokens=9, ignore_eos=True)


def cached_engine(num_blocks: int = 64, **settings: object) -> Engine:
    return make_engine(num_blocks, cache=make_cache(), **settings)  # type: ignore[arg-type]


def cached_tokens(out: Collected) -> dict[str, int]:
    return {e.request_id: e.num_cached_tokens for e in out.events if isinstance(e, PrefillDone)}


def assert_reference(out: Collected, tasks: Sequence[GenerationTask]) -> None:
    for task in tasks:
        for child in range(task.num_sequences):
            assert out.tokens[task.request_id, child] == reference_tokens(task, child), (task.request_id, child)


def num_computed(engine: Engine) -> list[int]:
    runner = engine._executor._runner
    assert isinstance(runner, FakeRunner)
    return runner.num_tokens


@pytest.mark.parametrize(("length", "expected"), [(1, 0), (4, 0), (5, 4), (8, 4), (9, 8), (20, 16), (21, 20)])
def test_the_same_prompt_again_computes_its_tail_alone(length: int, expected: int) -> None:
    """At least its last token: somebody has to say what follows."""
    engine = cached_engine()
    first, second = (make_task(name, prompt=PROMPT[:length], max_tokens=1) for name in ("a", "b"))
    assert cached_tokens(run_local(engine, [first])) == {"a": 0}
    out = run_local(engine, [second])
    assert cached_tokens(out) == {"b": expected}
    assert num_computed(engine)[-1] == length - expected
    assert_reference(out, [second])


def test_the_next_turn_reuses_what_was_said() -> None:
    engine = cached_engine()
    first = make_task("a", prompt=PROMPT, stop=LONG)
    said = run_local(engine, [first]).tokens["a", 0]
    second = make_task("b", prompt=(*PROMPT, *said, 5, 6, 7), stop=LONG)
    out = run_local(engine, [second])
    # The KV of the last token said was never computed: 21 + 8 tokens, seven full blocks.
    assert cached_tokens(out) == {"b": 28}
    assert_reference(out, [second])


def test_a_burst_of_equal_prompts_shares_at_once() -> None:
    engine = cached_engine(max_batched_tokens=8)
    tasks = [make_task(f"r{i}", prompt=PROMPT, stop=LONG) for i in range(5)]
    out = run_local(engine, tasks)
    assert_reference(out, tasks)
    # The second one takes what the first one's last chunk leaves of a step's budget, so it is admitted a block early.
    assert sorted(cached_tokens(out).values()) == [0, 16, 20, 20, 20]


def test_what_ran_side_by_side_is_held_once() -> None:
    """Both are admitted before either has anything to share; then the second one's blocks are given back."""
    engine = cached_engine(max_batched_tokens=64)
    tasks = [make_task(f"r{i}", prompt=PROMPT, stop=LONG) for i in range(2)]
    for task in tasks:
        engine.start_local(task)
    out = Collected()
    out.add(engine.step())
    assert engine.load().cached_blocks == 5
    assert engine.load().free_blocks == 64 - 7, "five shared blocks, and a tail each"
    drive(engine, out)
    assert_idle(engine)
    assert_reference(out, tasks)


def test_two_tenants_never_meet() -> None:
    engine = cached_engine()
    tasks = [make_task(name, prompt=PROMPT, stop=LONG, tenant=Tenant(name)) for name in ("a", "b")]
    out = run_local(engine, tasks[:1])
    drive_out = run_local(engine, tasks[1:])
    assert cached_tokens(out) | cached_tokens(drive_out) == {"a": 0, "b": 0}
    assert engine.cache is not None
    assert [use.num_blocks for use in engine.cache.stats().tenants] == [7, 7]


def test_children_share_a_cached_prompt() -> None:
    engine = cached_engine()
    sampling = SamplingParams(temperature=1.1, seed=3)
    tasks = [make_task(name, prompt=PROMPT, n=4, sampling=sampling, stop=LONG) for name in ("a", "b")]
    out = run_local(engine, tasks[:1])
    more = run_local(engine, tasks[1:])
    assert cached_tokens(more) == {"b": 20}
    assert_reference(out, tasks[:1])
    assert_reference(more, tasks[1:])


def test_a_preempted_sequence_finds_what_it_computed() -> None:
    engine = cached_engine(num_blocks=12, growth_margin=0.0)
    tasks = [make_task(f"r{i}", num_prompt=14, stop=StopParams(max_tokens=12, ignore_eos=True)) for i in range(3)]
    out = run_local(engine, tasks)
    assert_reference(out, tasks)
    assert sum(result.stats.num_preempted for result in out.results) > 0
    assert sum(num_computed(engine)) < 3 * 26 + sum(result.stats.num_preempted for result in out.results) * 20
    assert cached_tokens(out) == {"r0": 0, "r1": 0, "r2": 0}, "its own blocks are no hit"


def test_the_cache_never_lowers_concurrency() -> None:
    """A pool full of idle cached blocks admits as many as an empty one."""
    full, empty = cached_engine(num_blocks=24), make_engine(24)
    for start in range(40, 240, 20):
        run_local(full, [make_task(f"old{start}", prompt=range(start, start + 20), max_tokens=2)])
    assert full.load().cached_blocks >= 20
    assert full.load().free_blocks == 24
    steps = {}
    for name, engine in (("full", full), ("empty", empty)):
        tasks = [make_task(f"r{i}", num_prompt=9, stop=LONG) for i in range(8)]
        out = run_local(engine, tasks)
        assert_reference(out, tasks)
        steps[name] = len(out.results)
    assert steps["full"] <= steps["empty"]


@pytest.mark.parametrize("start", ["start_local", "start_prefill"])
def test_kv_that_is_not_finite_is_never_kept(start: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pass writes NaN into the last block that it fills; its logits show nothing of it."""
    engine = cached_engine(max_batched_tokens=8)
    forward = FakeRunner.forward

    def spoiled(runner: FakeRunner, batch: ForwardBatch) -> torch.Tensor:
        logits = forward(runner, batch)
        if batch.context_lens_list[0] == 16:
            runner.pool.data[batch.block_tables_list[0][3], 0, 0, 3] = float("nan")
        return logits

    monkeypatch.setattr(FakeRunner, "forward", spoiled)
    getattr(engine, start)(make_task("a", prompt=PROMPT, stop=LONG))
    out = drive(engine)
    assert [e.reason for e in out.events if isinstance(e, AttemptFailed)] == [
        NUMERICS if start == "start_prefill" else ENGINE  # the fake model chokes on it in its next pass
    ]
    assert engine.load().cached_blocks == 2
    assert_idle(engine)


def test_a_failed_request_clears_nothing_that_others_read() -> None:
    engine = cached_engine()
    good = make_task("good", prompt=PROMPT, stop=LONG)
    engine.start_local(good)
    out = Collected()
    for _ in range(3):
        out.add(engine.step())
    runner = engine._executor._runner
    assert isinstance(runner, FakeRunner)
    runner.poison_id = 251
    engine.start_local(make_task("bad", prompt=(*PROMPT[:20], 251), stop=LONG))
    drive(engine, out)
    assert [(e.request_id, e.reason) for e in out.events if isinstance(e, AttemptFailed)] == [("bad", NUMERICS)]
    assert cached_tokens(out) == {"good": 0}
    assert_reference(out, [good])


def test_a_prefill_worker_hands_over_what_was_cached() -> None:
    source, target = cached_engine(), cached_engine()
    tasks = [make_task(name, prompt=PROMPT, stop=LONG) for name in "abc"]
    out = Collected()
    for index, task in enumerate(tasks):
        key = key_of(task)
        source.start_prefill(task)
        drive(source, out)
        reserved = target.reserve_delta(task)
        assert target.reserve_delta(task) == reserved, "asked again, the same"
        sent = filled_refs(out, key)
        assert reserved.num_cached == (5 if index else 0)
        assert len(sent) == len(reserved.refs) == 6
        pairs = zip(sent[reserved.num_cached :], reserved.missing, strict=True)
        copy_blocks(source, target, key, pairs)
        target.commit_handover(key, out.sealed[-1].first_tokens)
        assert source.release(key)
        drive(target, out)
    assert cached_tokens(out) == {"a": 0, "b": 20, "c": 20}
    assert_reference(out, tasks)
    for engine in (source, target):
        assert_idle(engine)


def test_nothing_is_missing_when_every_block_is_cached() -> None:
    source, target = cached_engine(), cached_engine()
    tasks = [make_task(name, prompt=PROMPT[:20], stop=LONG) for name in "ab"]
    run_local(target, tasks[:1])
    source.start_prefill(tasks[1])
    out = drive(source)
    reserved = target.reserve_delta(tasks[1])
    assert (reserved.num_cached, reserved.missing) == (5, ())
    target.commit_handover(key_of(tasks[1]), out.sealed[0].first_tokens)
    source.release(key_of(tasks[1]))
    drive(target, out)
    assert_reference(out, tasks[1:])
    assert_idle(target)


def test_lent_blocks_go_back_when_a_reservation_is_aborted_or_refused() -> None:
    engine = cached_engine(num_blocks=10)
    run_local(engine, [make_task("a", prompt=PROMPT, max_tokens=1)])
    task = make_task("b", prompt=PROMPT, stop=LONG)
    assert engine.reserve_delta(task).num_cached == 5
    with pytest.raises(Overloaded):
        engine.reserve_delta(make_task("c", num_prompt=30, max_tokens=2))
    assert engine.abort(key_of(task))
    assert_idle(engine)


def test_a_lone_request_that_needs_the_pins_room_gets_it() -> None:
    clock = SettableClock()
    cache = make_cache(max_pinned_share=1.0, max_pinned_tenant_share=1.0)
    engine = make_engine(8, cache=cache, clock=clock)
    run_local(engine, [make_task("a", prompt=PROMPT, max_tokens=1)])
    assert engine.cache is not None
    assert engine.cache.keep(make_task("a").tenant, PROMPT, 1000.0) == 20
    assert engine.load().pinned_blocks == 5
    small = make_task("b", num_prompt=9, max_tokens=2)
    run_local(engine, [small])
    assert engine.load().pinned_blocks == 5, "what fits beside a pin leaves it alone"
    large = make_task("c", num_prompt=25, stop=StopParams(max_tokens=5, ignore_eos=True))
    out = run_local(engine, [large])
    assert_reference(out, [large])
    assert engine.load().pinned_blocks == 0


@pytest.mark.parametrize("seed", range(12))
def test_on_and_off_say_the_same(seed: int) -> None:
    """Tiny pools, every policy, chunks, children, penalties, tenants: equal tokens, and less was computed."""
    draw = random.Random(seed)
    tasks = []
    for index in range(30):
        length, own = draw.randint(1, 24), draw.randint(0, 10)
        prompt = [*range(10, 10 + max(length - own, 0)), *(draw.randint(4, 250) for _ in range(min(own, length)))]
        drawn = SamplingParams(temperature=1.1, seed=index, repetition_penalty=1.3, presence_penalty=0.5)
        sampling = draw.choice([SamplingParams(), drawn])
        tasks.append(
            make_task(
                f"r{index}",
                prompt=prompt,
                n=draw.choice([1, 1, 1, 3]),
                sampling=sampling,
                stop=StopParams(max_tokens=draw.randint(1, 10)),
                tenant=Tenant(draw.choice("ab")),
            )
        )
    settings: dict[str, Any] = {"max_batched_tokens": draw.choice([5, 16, 64]), "max_sequences": draw.choice([4, 16])}
    num_blocks = draw.choice([12, 16, 40])
    on = make_engine(num_blocks, cache=make_cache(eviction=list(EvictionName)[seed % 4]), **settings)
    off = make_engine(num_blocks, **settings)
    for first in range(0, 30, 6):
        outs = [run_local(engine, tasks[first : first + 6]) for engine in (on, off)]
        assert outs[0].tokens == outs[1].tokens
        assert outs[0].text == outs[1].text
        assert_reference(outs[0], tasks[first : first + 6])
    assert sum(num_computed(on)) < sum(num_computed(off))
