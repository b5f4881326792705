"""The scheduler's plans, seen through steps of an engine over the fake model."""

import pytest
from pydantic import ValidationError

from tandem.core.blocks import FirstToken
from tandem.core.types import PriorityClass, StopParams
from tandem.engine.config import EngineConfig
from tandem.engine.engine import Engine
from tests.fakes.engine_driver import Collected, SettableClock, drive, key_of, make_engine, make_task
from tests.fakes.fake_runner import reference_tokens

LONG = StopParams(max_tokens=12, ignore_eos=True)


def prefilled(out: Collected) -> list[int]:
    return [result.stats.num_prefill_tokens for result in out.results if result.stats.num_prefill_tokens]


def test_prompts_are_computed_in_chunks_of_the_budget() -> None:
    engine = make_engine(max_batched_tokens=16)
    engine.start_prefill(make_task(num_prompt=37))
    out = drive(engine)
    assert prefilled(out) == [16, 16, 5]
    assert [result.stats.num_cached_tokens for result in out.results] == [0, 16, 32]
    assert [[(f.first_ordinal, len(f.refs)) for f in result.filled] for result in out.results] == [
        [(0, 4)],
        [(4, 4)],
        [(8, 2)],
    ]
    assert (out.sealed[0].num_blocks, out.sealed[0].num_tokens) == (10, 37)


def test_blocks_are_announced_only_when_whole() -> None:
    engine = make_engine(max_batched_tokens=6)
    engine.start_prefill(make_task(num_prompt=13))
    out = drive(engine)
    assert [[len(f.refs) for f in result.filled] for result in out.results] == [[1], [2], [1]]
    assert engine.table.counts().sealed == 4


def test_short_prompts_share_a_step() -> None:
    engine = make_engine(max_batched_tokens=32)
    for i in range(5):
        engine.start_prefill(make_task(f"r{i}", num_prompt=8))
    out = drive(engine)
    assert prefilled(out) == [32, 8]
    assert [len(result.sealed) for result in out.results] == [4, 1]


def test_blocks_are_bound_late() -> None:
    """A prompt that no step would work on yet holds no blocks, so that a more urgent one could still have them."""
    engine = make_engine(max_batched_tokens=8)
    for i in range(3):
        engine.start_prefill(make_task(f"r{i}", num_prompt=16))
    engine.step()
    assert engine.load().free_blocks == engine.num_blocks - 4
    drive(engine)
    assert engine.load().free_blocks == engine.num_blocks - 12


def test_decoding_goes_on_beside_a_prompt_in_small_chunks() -> None:
    engine = make_engine(128, max_batched_tokens=64, mixed_prefill_tokens=8)
    first, second = make_task("a", num_prompt=8, stop=LONG), make_task("b", num_prompt=40, stop=LONG)
    engine.start_local(first)
    out = Collected()
    out.add(engine.step())
    engine.start_local(second)
    drive(engine, out)
    mixed = [r.stats for r in out.results if r.stats.num_prefill_tokens and r.stats.num_decode_rows]
    assert [stats.num_prefill_tokens for stats in mixed] == [8] * 5
    for result in out.results[1:6]:
        assert any(delta.request_id == "a" for delta in result.tokens), "no step without a token for the running one"
    assert out.tokens["b", 0] == reference_tokens(second)


def test_an_urgent_prompt_is_computed_before_an_older_one() -> None:
    engine = make_engine(max_batched_tokens=8)
    engine.start_prefill(make_task("old", num_prompt=24))
    out = Collected()
    out.add(engine.step())
    engine.start_prefill(make_task("urgent", num_prompt=6, priority=PriorityClass.INTERACTIVE))
    drive(engine, out)
    assert [sealed.key.request_id for sealed in out.sealed] == ["urgent", "old"]


def test_waiting_prompts_are_ordered_by_class() -> None:
    engine = make_engine(max_batched_tokens=8)
    for name, priority in (("x", PriorityClass.STANDARD), ("y", PriorityClass.BATCH), ("z", PriorityClass.INTERACTIVE)):
        engine.start_prefill(make_task(name, num_prompt=6, priority=priority))
    assert [sealed.key.request_id for sealed in drive(engine).sealed] == ["z", "x", "y"]


def starts(out: Collected) -> dict[str, int]:
    """Step of each request's first token."""
    first: dict[str, int] = {}
    for index, result in enumerate(out.results):
        for delta in result.tokens:
            first.setdefault(delta.request_id, index)
    return first


def ends(out: Collected) -> dict[str, int]:
    """Step of each request's last token."""
    return {delta.request_id: index for index, result in enumerate(out.results) for delta in result.tokens}


def five(engine: Engine) -> None:
    for i in range(5):
        stop = StopParams(max_tokens=3 + 2 * i, ignore_eos=True)
        engine.start_local(make_task(f"r{i}", num_prompt=4 + i, stop=stop))


def test_continuous_admits_beside_running_sequences() -> None:
    engine = make_engine(128, max_sequences=2)
    five(engine)
    out = drive(engine)
    assert starts(out)["r2"] == ends(out)["r0"] + 1 < ends(out)["r1"], "a place is taken the step after it is free"
    assert max(result.stats.num_decode_rows for result in out.results) == 2


@pytest.mark.parametrize("batching", ["dynamic", "static"])
def test_batches_run_to_their_end(batching: str) -> None:
    engine = make_engine(128, batching=batching, batch_size=2, batch_timeout_s=0.0)
    five(engine)
    out = drive(engine)
    first, last = starts(out), ends(out)
    assert first["r2"] > max(last["r0"], last["r1"])
    assert first["r4"] > max(last["r2"], last["r3"])
    assert all(not (r.stats.num_decode_rows and r.stats.num_prefill_tokens) for r in out.results)


def test_static_waits_for_its_batch_and_says_for_how_long() -> None:
    clock = SettableClock()
    engine = make_engine(128, clock=clock, batching="static", batch_size=2, batch_timeout_s=0.5)
    engine.start_local(make_task("a", max_tokens=2))
    assert not engine.has_work()
    assert engine.next_work_s() == pytest.approx(0.5)
    clock.time_s += 0.2
    assert engine.next_work_s() == pytest.approx(0.3)
    engine.start_local(make_task("b", max_tokens=2))
    assert engine.has_work(), "the batch is full"
    drive(engine)
    engine.start_local(make_task("c", max_tokens=2))
    clock.time_s += 0.5
    assert engine.has_work(), "its time is up"
    assert ("c", 0) in drive(engine).finished


def test_a_request_larger_than_a_batch_is_a_batch_of_its_own() -> None:
    engine = make_engine(128, batching="dynamic", batch_size=2)
    task = make_task("a", n=4, stop=LONG)
    engine.start_local(task)
    out = drive(engine)
    assert len(out.finished) == 4


def test_handed_over_sequences_wait_for_their_batch_too() -> None:
    source, target = make_engine(), make_engine(128, batching="static", batch_size=2, batch_timeout_s=9.0)
    tasks = [make_task(f"r{i}", num_prompt=8, stop=LONG) for i in range(2)]
    out = Collected()
    for task in tasks:
        source.start_prefill(task)
        drive(source, out)
        sealed = out.sealed[-1]
        target.reserve_decode(task)
        target.commit_handover(key_of(task), sealed.first_tokens)
        assert target.has_work() == (task is tasks[-1])
    assert target.load().num_waiting == 2


def test_places_are_kept_for_reservations() -> None:
    engine = make_engine(128, max_sequences=2)
    reserved = make_task("reserved", num_prompt=4)
    engine.reserve_decode(reserved)
    for i in range(2):
        engine.start_local(make_task(f"r{i}", num_prompt=4, stop=LONG))
    out = drive(engine)
    assert max(result.stats.num_decode_rows for result in out.results) == 1
    engine.abort(key_of(reserved))


def test_a_handed_over_sequence_takes_a_place_before_waiting_prompts() -> None:
    engine = make_engine(128, max_sequences=2)
    task = make_task("handed", num_prompt=4, stop=LONG)
    engine.reserve_decode(task)
    for i in range(2):
        engine.start_local(make_task(f"r{i}", num_prompt=4, stop=LONG))
    engine.commit_handover(key_of(task), [FirstToken(child=0, token_id=9, finished=False)])
    results = []
    while engine.has_work():
        results.append(engine.step())
        assert engine.load().num_running <= 2
    assert results[0].stats.num_decode_rows == 1


def test_load_tells_what_is_going_on() -> None:
    clock = SettableClock()
    engine = make_engine(32, clock=clock, max_batched_tokens=8, growth_margin=0.0)
    engine.reserve_decode(make_task("d", num_prompt=8))
    engine.start_local(make_task("a", num_prompt=6, stop=LONG))
    engine.step()
    engine.start_local(make_task("b", num_prompt=20, n=2, stop=LONG))
    load = engine.load()
    assert (load.num_running, load.num_waiting, load.waiting_prefill_tokens) == (1, 2, 20)
    assert (load.total_blocks, load.receiving_blocks, load.free_blocks) == (32, 2, 28)
    assert load.running_context_tokens == 7


@pytest.mark.parametrize(
    "settings",
    [{"block_size": 0}, {"num_blocks": 0}, {"num_blocks": 8, "kv_memory_bytes": 8}, {"growth_margin": 1.1}, {"x": 1}],
)
def test_bad_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        EngineConfig(**settings)  # type: ignore[arg-type]


def test_every_setting_says_what_it_is() -> None:
    assert all(field.description for field in EngineConfig.model_fields.values())
