"""Small pools: everything that can fit ends, with the same tokens, and nothing is left over."""

import pytest

from tandem.core.errors import InvalidArgument, Overloaded
from tandem.core.messages import PrefillDone
from tandem.core.reasons import NO_BLOCKS, NO_SLOT, TOO_LARGE
from tandem.core.types import PriorityClass, SamplingParams, StopParams
from tandem.engine.kv.block_table import NoBlocks
from tests.fakes.engine_driver import (
    Collected,
    assert_idle,
    copy_blocks,
    drive,
    filled_refs,
    key_of,
    make_engine,
    make_task,
    run_local,
    run_split,
)
from tests.fakes.fake_runner import reference_tokens

SAMPLED = SamplingParams(temperature=1.0, seed=5, presence_penalty=0.3)
ENDLESS = StopParams(max_tokens=20, ignore_eos=True)


def num_preempted(out: Collected) -> int:
    return sum(result.stats.num_preempted for result in out.results)


@pytest.mark.parametrize("margin", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("batching", ["continuous", "dynamic", "static"])
def test_32_long_requests_end_in_24_blocks(margin: float, batching: str) -> None:
    engine = make_engine(24, growth_margin=margin, batching=batching, batch_timeout_s=0.0, max_batched_tokens=32)
    tasks = [make_task(f"r{i}", num_prompt=6 + i % 11, stop=ENDLESS, sampling=SAMPLED) for i in range(32)]
    out = run_local(engine, tasks)
    assert len(out.finished) == 32
    for task in tasks:
        assert out.tokens[task.request_id, 0] == reference_tokens(task)
    if margin == 1.0:
        assert num_preempted(out) == 0


def test_preemption_happens_and_changes_no_token() -> None:
    tasks = [make_task(f"r{i}", num_prompt=10, n=2, stop=ENDLESS, sampling=SAMPLED) for i in range(6)]
    roomy = run_local(make_engine(512), tasks)
    tight = run_local(make_engine(13, growth_margin=0.0), tasks)
    assert num_preempted(roomy) == 0
    assert num_preempted(tight) > 0
    assert tight.tokens == roomy.tokens
    assert tight.text == roomy.text


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_pools_around_the_exact_need(missing: int) -> None:
    """8 blocks hold one request at its largest: with one less it is refused, and a second one has to wait."""
    tasks = [make_task(f"r{i}", num_prompt=12, stop=ENDLESS) for i in range(3)]
    engine = make_engine(8 - missing)
    if missing:
        with pytest.raises(InvalidArgument, match="need 8 KV blocks") as caught:
            engine.start_local(tasks[0])
        assert caught.value.reason == TOO_LARGE
        assert_idle(engine)
        return
    out = run_local(engine, tasks)
    assert [out.tokens[f"r{i}", 0] for i in range(3)] == [reference_tokens(task) for task in tasks]


def test_children_that_fit_only_one_after_the_other_all_end() -> None:
    task = make_task(num_prompt=10, n=4, stop=ENDLESS, sampling=SAMPLED)
    out = run_local(make_engine(8), [task])
    assert [out.tokens["r0", c] for c in range(4)] == [reference_tokens(task, c) for c in range(4)]
    assert num_preempted(out) > 0


def test_handover_into_a_pool_with_no_block_for_the_fork() -> None:
    task = make_task(num_prompt=30, n=3, stop=StopParams(max_tokens=2, ignore_eos=True), sampling=SAMPLED)
    out = run_split(make_engine(8), make_engine(8, growth_margin=0.0), [task])
    assert [out.tokens["r0", c] for c in range(3)] == [reference_tokens(task, c) for c in range(3)]


def test_the_least_urgent_gives_way_first() -> None:
    """Two sequences need a block and none is left: the batch-class one goes back, although it came first."""
    engine = make_engine(9, growth_margin=0.0)
    batch = make_task("batch", num_prompt=12, stop=ENDLESS, priority=PriorityClass.BATCH)
    urgent = make_task("urgent", num_prompt=12, stop=ENDLESS, priority=PriorityClass.INTERACTIVE)
    engine.start_local(batch)
    out = Collected()
    out.add(engine.step())
    engine.start_local(urgent)
    drive(engine, out)
    ends = [delta.request_id for result in out.results for delta in result.tokens if delta.finish_reason]
    assert ends == ["urgent", "batch"]
    assert num_preempted(out) > 0
    assert out.tokens["batch", 0] == reference_tokens(batch)
    assert out.tokens["urgent", 0] == reference_tokens(urgent)


def test_prompts_wait_their_turn_and_none_overtakes() -> None:
    engine = make_engine(10)
    large, small = (make_task(name, num_prompt=size, max_tokens=1) for name, size in (("large", 30), ("small", 2)))
    first = make_task("first", num_prompt=16, stop=StopParams(max_tokens=8, ignore_eos=True))
    for task in (first, large, small):
        engine.start_local(task)
    out = drive(engine)
    ends = [d.request_id for result in out.results for d in result.tokens if d.finish_reason]
    assert ends == ["first", "large", "small"]


def test_a_prefill_worker_waits_for_released_blocks() -> None:
    source = make_engine(5)
    first, second = make_task("a", num_prompt=14), make_task("b", num_prompt=6)
    source.start_prefill(first)
    source.start_prefill(second)
    out = drive(source)
    assert [sealed.key for sealed in out.sealed] == [key_of(first)]
    assert source.load().num_waiting == 1
    assert source.next_work_s() is None, "only a release can help"
    assert source.release(key_of(first))
    assert source.has_work()
    drive(source, out)
    assert [sealed.key for sealed in out.sealed] == [key_of(first), key_of(second)]


def test_reservations_are_refused_rather_than_overbooked() -> None:
    engine = make_engine(16, growth_margin=1.0, max_sequences=3)
    stop = StopParams(max_tokens=8)
    engine.reserve_decode(make_task("a", num_prompt=16, stop=stop))
    with pytest.raises(NoBlocks) as blocks:
        engine.reserve_decode(make_task("b", num_prompt=41, stop=stop))
    assert blocks.value.reason == NO_BLOCKS
    engine.reserve_decode(make_task("c", num_prompt=4, stop=stop))
    with pytest.raises(Overloaded, match="2 sequences, 1 free") as slots:
        engine.reserve_decode(make_task("d", num_prompt=2, n=2, stop=stop))
    assert slots.value.reason == NO_SLOT
    assert engine.load().receiving_blocks == 5


def test_reserving_twice_is_one_reservation() -> None:
    engine = make_engine(16)
    task = make_task()
    assert engine.reserve_decode(task) == engine.reserve_decode(task)
    assert engine.load().receiving_blocks == 3


def test_reservations_leave_room_for_what_waits_already() -> None:
    """A queued prompt is not starved by hand-overs that come after it."""
    engine = make_engine(10, growth_margin=0.0)
    running = make_task("running", num_prompt=20, stop=ENDLESS)
    engine.start_local(running)
    out = Collected()
    out.add(engine.step())
    engine.start_local(make_task("queued", num_prompt=20, max_tokens=1))
    with pytest.raises(NoBlocks):
        engine.reserve_decode(make_task("late", num_prompt=4, max_tokens=2))
    drive(engine, out)
    assert len(out.finished) == 2


def test_a_stalled_reservation_blocks_nobody_for_ever() -> None:
    """The pool is full of KV that never comes: running requests preempt themselves and go on once it is aborted."""
    engine = make_engine(10, growth_margin=0.0)
    stalled = make_task("stalled", num_prompt=16, max_tokens=4)
    engine.reserve_decode(stalled)
    task = make_task("r", num_prompt=12, stop=ENDLESS)
    engine.start_local(task)
    out = drive(engine)
    assert out.finished == {}
    assert not engine.has_work()
    assert engine.abort(key_of(stalled))
    drive(engine, out)
    assert out.tokens["r", 0] == reference_tokens(task)
    assert_idle(engine)


def test_too_many_waiting_sequences_are_refused() -> None:
    engine = make_engine(8, max_waiting_sequences=2)
    engine.start_local(make_task("a", n=2))
    with pytest.raises(Overloaded, match="2 sequences wait already") as caught:
        engine.start_local(make_task("b"))
    assert caught.value.reason == NO_SLOT


def test_late_writes_into_an_aborted_reservation_are_harmless() -> None:
    source, target = make_engine(16), make_engine(4)
    old, new = make_task("old", num_prompt=15, max_tokens=1), make_task("new", num_prompt=13, max_tokens=3)
    for task in (old, new):
        source.start_prefill(task)
    out = drive(source)
    stale = target.reserve_decode(old)
    target.abort(key_of(old))
    fresh = target.reserve_decode(new)
    assert {ref.block_id for ref in stale} == {ref.block_id for ref in fresh}
    assert not any(target.table.begin_write(ref, key_of(old)) for ref in stale)
    copy_blocks(source, target, key_of(new), zip(filled_refs(out, key_of(new)), fresh, strict=True))
    target.commit_handover(key_of(new), out.sealed[1].first_tokens)
    drive(target, out)
    assert out.tokens["new", 0] == reference_tokens(new)


def test_handed_over_sequences_run_when_the_batch_waits_for_their_blocks() -> None:
    """Dynamic batching: the running batch was preempted for want of the blocks that those after it hold."""
    source, engine = make_engine(), make_engine(10, batching="dynamic", batch_size=2, growth_margin=0.0)
    running = make_task("running", num_prompt=12, stop=ENDLESS)
    urgent = make_task("urgent", num_prompt=16, max_tokens=3, priority=PriorityClass.INTERACTIVE)
    engine.start_local(running)
    source.start_prefill(urgent)
    out = drive(source)
    out.add(engine.step())
    refs = engine.reserve_decode(urgent)
    copy_blocks(source, engine, key_of(urgent), zip(filled_refs(out, key_of(urgent)), refs, strict=True))
    engine.commit_handover(key_of(urgent), out.sealed[0].first_tokens)
    drive(engine, out)
    assert num_preempted(out) > 0
    for task in (running, urgent):
        assert out.tokens[task.request_id, 0] == reference_tokens(task)


def test_a_decode_worker_that_computes_again_does_not_report_a_prefill() -> None:
    tasks = [make_task(f"r{i}", num_prompt=10, stop=ENDLESS) for i in range(3)]
    source, target = make_engine(), make_engine(10, growth_margin=0.0)
    for task in tasks:
        source.start_prefill(task)
    out = drive(source)
    for task, sealed in zip(tasks, out.sealed, strict=True):
        refs = target.reserve_decode(task)
        copy_blocks(source, target, sealed.key, zip(filled_refs(out, sealed.key), refs, strict=True))
        target.commit_handover(sealed.key, sealed.first_tokens)
    late = drive(target, out)
    assert num_preempted(late) > 0
    assert len(late.events_of(PrefillDone)) == 3, "one per prefill worker's prompt, none from the decode worker"
    assert [late.tokens[task.request_id, 0] for task in tasks] == [reference_tokens(task) for task in tasks]
