"""What goes wrong stays alone: NaN, a failing pass, deadlines, aborts, bad tasks, recovery of what was interrupted."""

from collections import defaultdict
from dataclasses import replace

import pytest
import torch

from tandem.core.blocks import FirstToken
from tandem.core.errors import InvalidArgument, NotFound
from tandem.core.messages import AttemptFailed, AttemptReleased, PrefillDone
from tandem.core.reasons import DEADLINE, ENGINE, NUMERICS, TOO_LARGE
from tandem.core.types import GenerationTask, SamplingParams, StopParams
from tandem.engine.config import EngineConfig
from tandem.engine.engine import Engine
from tandem.engine.kv.block_table import IntegrityError
from tandem.engine.sampling.sampler import Sampler
from tandem.engine.text_output import text_factory
from tests.fakes.engine_driver import (
    TOKENIZER,
    Child,
    Collected,
    SettableClock,
    assert_idle,
    drive,
    key_of,
    make_engine,
    make_task,
    run_local,
    run_split,
)
from tests.fakes.fake_runner import FakeRunner, fake_pool, reference_tokens

SAMPLED = SamplingParams(temperature=1.0, seed=9, repetition_penalty=1.2)
LONG = StopParams(max_tokens=10, ignore_eos=True)


def engine_and_runner(num_blocks: int = 64) -> tuple[Engine, FakeRunner]:
    runner = FakeRunner(fake_pool(num_blocks))
    engine = Engine(runner=runner, sampler=Sampler(), make_text=text_factory(TOKENIZER), config=EngineConfig())
    return engine, runner


def failures(out: Collected) -> list[tuple[str, str, bool]]:
    return [(e.request_id, e.reason, e.retryable) for e in out.events if isinstance(e, AttemptFailed)]


# --- numerics and failing passes ---


@pytest.mark.parametrize("start", ["start_local", "start_prefill"])
def test_nan_fails_its_request_alone_and_leaves_no_nan(start: str) -> None:
    engine, runner = engine_and_runner()
    runner.poison_id = 300
    bad = make_task("bad", prompt=[5, 6, 300], n=2)
    good = make_task("good")
    for task in (bad, good):
        getattr(engine, start)(task)
    runner.pool.data[engine.num_blocks - 1].fill_(7.0)
    out = drive(engine)
    assert failures(out) == [("bad", NUMERICS, False)]
    assert ("bad", 0) not in out.tokens
    assert out.tokens["good", 0][:1] == reference_tokens(good)[:1]
    assert not (runner.pool.data == 300.0).any(), "the poisoned blocks are cleared at once"
    engine.abort(key_of(good))
    assert_idle(engine)


def test_nan_in_the_middle_of_decoding() -> None:
    task = make_task(stop=LONG)
    tokens = reference_tokens(task)
    engine, runner = engine_and_runner()
    runner.poison_id = tokens[4]
    other = make_task("other", stop=LONG, num_prompt=4)
    assert tokens[4] not in {*tokens[:4], *reference_tokens(other), *task.prompt_token_ids, *other.prompt_token_ids}
    out = run_local(engine, [task, other])
    assert out.tokens["r0", 0] == tokens[:5]
    assert failures(out) == [("r0", NUMERICS, False)]
    assert out.tokens["other", 0] == reference_tokens(other)


def test_a_failing_pass_fails_those_in_it_and_the_engine_goes_on() -> None:
    engine, runner = engine_and_runner()
    runner.failures = [RuntimeError("kernel")]
    held = make_task("held")
    engine.reserve_decode(held)
    out = run_in(engine, make_task("a"), make_task("b", n=2))
    assert failures(out) == [("a", ENGINE, True), ("b", ENGINE, True)]
    assert engine.load().receiving_blocks == 3, "who was not in the pass is not touched"
    assert engine.abort(key_of(held))
    again = run_local(engine, [make_task("a", attempt=1)])
    assert again.tokens["a", 0] == reference_tokens(make_task("a"))


def run_in(engine: Engine, *tasks: GenerationTask) -> Collected:
    for task in tasks:
        engine.start_local(task)
    return drive(engine)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("device"), MemoryError()])
def test_out_of_memory_ends_the_process(error: Exception) -> None:
    engine, runner = engine_and_runner()
    runner.failures = [error]
    engine.start_local(make_task())
    with pytest.raises(type(error)):
        engine.step()


def test_blocks_left_without_an_owner_are_noticed_when_idle() -> None:
    engine = make_engine()
    run_local(engine, [make_task()])
    engine._book._attempts.clear()
    engine.start_local(make_task("r1"))
    engine.step()
    engine._book._attempts.clear()
    with pytest.raises(IntegrityError, match="no attempt is left"):
        engine.check_integrity()


# --- deadlines ---


@pytest.mark.parametrize("start", ["start_local", "start_prefill", "reserve_decode"])
def test_deadline_ends_an_attempt_wherever_it_is(start: str) -> None:
    clock = SettableClock()
    engine = make_engine(clock=clock)
    getattr(engine, start)(make_task(deadline_left_s=2.0, stop=LONG))
    out = Collected()
    if engine.has_work():
        out.add(engine.step())
    clock.time_s += 1.99
    assert engine.next_work_s() in (0.0, pytest.approx(0.01))
    clock.time_s += 0.02
    assert engine.has_work()
    drive(engine, out)
    assert failures(out) == [("r0", DEADLINE, False)]
    assert_idle(engine)


def test_deadline_of_a_sealed_prefill_frees_it() -> None:
    clock = SettableClock()
    engine = make_engine(clock=clock)
    engine.start_prefill(make_task(deadline_left_s=1.0))
    out = drive(engine)
    assert len(out.sealed) == 1
    clock.time_s += 1.0
    drive(engine, out)
    assert failures(out) == [("r0", DEADLINE, False)]
    assert_idle(engine)


def test_timings_of_the_prefill() -> None:
    clock = SettableClock()
    engine = make_engine(clock=clock, max_batched_tokens=4)
    engine.start_local(make_task(num_prompt=9, max_tokens=1))
    out = Collected()
    for _ in range(3):
        clock.time_s += 0.5
        out.add(engine.step())
    done = out.events_of(PrefillDone)[0]
    assert isinstance(done, PrefillDone)
    assert (done.wait_ms, done.compute_ms, done.num_cached_tokens) == (500.0, 1000.0, 0)


# --- abort and release ---


@pytest.mark.parametrize("num_steps", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("start", ["start_local", "start_prefill"])
def test_abort_frees_at_once_and_twice_is_once(start: str, num_steps: int) -> None:
    engine = make_engine(max_batched_tokens=4)
    task = make_task(num_prompt=10, n=3, stop=LONG)
    getattr(engine, start)(task)
    for _ in range(num_steps):
        engine.step()
    assert engine.abort(key_of(task))
    assert_idle(engine)
    assert not engine.abort(key_of(task))
    assert not engine.release(key_of(task))


def test_release_needs_a_sealed_prefill() -> None:
    engine = make_engine(max_batched_tokens=4)
    task = make_task()
    engine.start_prefill(task)
    engine.step()
    assert not engine.release(key_of(task))
    drive(engine)
    assert engine.release(key_of(task))
    assert_idle(engine)


@pytest.mark.parametrize("num_steps", [0, 1, 3, 6])
def test_abort_of_one_child_leaves_the_others(num_steps: int) -> None:
    for gone in range(3):
        engine = make_engine(max_batched_tokens=4)
        task = make_task(num_prompt=10, n=3, stop=LONG, sampling=SAMPLED)
        engine.start_local(task)
        out = Collected()
        for _ in range(num_steps):
            out.add(engine.step())
        assert engine.abort(key_of(task), gone)
        assert not engine.abort(key_of(task), gone)
        drive(engine, out)
        assert_idle(engine)
        for child in {0, 1, 2} - {gone}:
            assert out.tokens["r0", child] == reference_tokens(task, child)
        assert len(out.events_of(AttemptReleased)) == 1


def test_aborting_every_child_ends_the_attempt() -> None:
    engine = make_engine()
    task = make_task(n=2, stop=LONG)
    engine.start_local(task)
    engine.step()
    assert engine.abort(key_of(task), 0)
    assert engine.abort(key_of(task), 1)
    assert len(drive(engine).events_of(AttemptReleased)) == 1
    assert_idle(engine)


def test_a_child_aborted_before_the_commit_never_decodes() -> None:
    source, target = make_engine(), make_engine()
    task = make_task(num_prompt=8, n=2, stop=LONG, sampling=SAMPLED)
    source.start_prefill(task)
    out = drive(source)
    target.reserve_decode(task)
    assert target.abort(key_of(task), 1)
    target.commit_handover(key_of(task), out.sealed[0].first_tokens)
    drive(target, out)
    assert len(out.tokens["r0", 0]) == 10
    assert len(out.tokens["r0", 1]) == 1
    assert_idle(target)


# --- commit ---


def first(child: int = 0, token_id: int = 5, finished: bool = False) -> FirstToken:
    return FirstToken(child=child, token_id=token_id, finished=finished)


def test_commit_needs_a_reservation() -> None:
    engine = make_engine()
    task = make_task()
    with pytest.raises(NotFound):
        engine.commit_handover(key_of(task), [first()])
    engine.reserve_decode(task)
    engine.commit_handover(key_of(task), [first()])
    with pytest.raises(NotFound):
        engine.commit_handover(key_of(task), [first()])


@pytest.mark.parametrize(
    "tokens", [[], [first(1)], [first(), first()], [first(token_id=-1)], [first(token_id=320)]], ids=str
)
def test_commit_checks_what_the_peer_says(tokens: list[FirstToken]) -> None:
    engine = make_engine()
    task = make_task()
    engine.reserve_decode(task)
    with pytest.raises(InvalidArgument, match="first_tokens"):
        engine.commit_handover(key_of(task), tokens)
    assert engine.abort(key_of(task))
    assert_idle(engine)


def test_commit_refuses_a_child_that_should_have_ended() -> None:
    engine = make_engine()
    task = make_task(max_tokens=1)
    engine.reserve_decode(task)
    with pytest.raises(InvalidArgument, match="has all its tokens"):
        engine.commit_handover(key_of(task), [first()])


def test_commit_of_only_finished_children_ends_the_attempt() -> None:
    engine = make_engine()
    task = make_task(n=2)
    engine.reserve_decode(task)
    engine.commit_handover(key_of(task), [first(0, finished=True), first(1, finished=True)])
    assert len(drive(engine).events_of(AttemptReleased)) == 1
    assert_idle(engine)


def test_commit_under_a_writers_hands_is_refused() -> None:
    engine = make_engine()
    task = make_task()
    ref = engine.reserve_decode(task)[0]
    assert engine.table.begin_write(ref, key_of(task))
    with pytest.raises(IntegrityError):
        engine.commit_handover(key_of(task), [first()])
    engine.abort(key_of(task))
    engine.table.end_write(ref)
    assert_idle(engine)


# --- recovery ---


@pytest.mark.parametrize("num_emitted", [1, 3, 4, 9])
@pytest.mark.parametrize("split", [False, True])
def test_recovery_continues_exactly(num_emitted: int, split: bool) -> None:
    task = make_task(num_prompt=7, stop=LONG, sampling=SAMPLED)
    tokens = reference_tokens(task)
    retry = replace(task, attempt=1, emitted=(tuple(tokens[:num_emitted]),))
    out = Collected(tokens=_offset(retry))  # positions are checked from there on
    if split:
        run_split(make_engine(max_batched_tokens=5), make_engine(), [retry], out)
    else:
        engine = make_engine(max_batched_tokens=5)
        engine.start_local(retry)
        drive(engine, out)
        assert_idle(engine)
    assert out.tokens["r0", 0] == tokens


def _offset(task: GenerationTask) -> defaultdict[Child, list[int]]:
    emitted: dict[Child, list[int]] = {(task.request_id, c): list(tokens) for c, tokens in enumerate(task.emitted)}
    return defaultdict(list, emitted)


def test_recovery_of_several_children_at_different_places() -> None:
    task = make_task(num_prompt=7, n=4, stop=LONG, sampling=SAMPLED)
    tokens = [reference_tokens(task, c) for c in range(4)]
    lengths = (0, 3, 9, 5)
    emitted = tuple(tuple(t[:k]) for t, k in zip(tokens, lengths, strict=True))
    retry = replace(task, attempt=2, emitted=emitted, done_children=frozenset({3}))
    for num_blocks in (64, 6):
        engine = make_engine(num_blocks, max_batched_tokens=5)
        engine.start_local(retry)
        out = drive(engine, Collected(tokens=_offset(retry)))
        assert_idle(engine)
        assert [out.tokens["r0", c] for c in range(3)] == tokens[:3]
        assert out.tokens["r0", 3] == tokens[3][:5], "a child that is done says nothing more"


def test_recovered_text_continues_the_emitted_text() -> None:
    task = make_task(num_prompt=7, stop=LONG)
    whole = run_local(make_engine(), [task])
    text_by_position = [d.text for result in whole.results for d in result.tokens]
    retry = replace(task, attempt=1, emitted=(tuple(whole.tokens["r0", 0][:4]),))
    engine = make_engine()
    engine.start_local(retry)
    out = drive(engine, Collected(tokens=_offset(retry)))
    assert out.text["r0", 0] == "".join(text_by_position[4:])


# --- tasks that are refused ---

BAD_TASKS: dict[str, GenerationTask] = {
    "empty prompt": make_task(prompt=[]),
    "id out of range": make_task(prompt=[320]),
    "prompt over the context": make_task(num_prompt=1024),
    "no tokens": make_task(max_tokens=0),
    "too many tokens": make_task(max_tokens=1020),
    "nan temperature": make_task(sampling=SamplingParams(temperature=float("nan"))),
    "too many children": make_task(n=9),
    "unknown done child": make_task(done_children=frozenset({1})),
    "everybody is done": make_task(n=2, done_children=frozenset({0, 1})),
    "nothing left to emit": make_task(max_tokens=2, emitted=((1, 2),)),
    "emitted of another n": make_task(n=2, emitted=((1,),)),
}


@pytest.mark.parametrize("start", ["start_local", "start_prefill", "reserve_decode"])
@pytest.mark.parametrize("name", BAD_TASKS)
def test_bad_tasks_are_refused_and_leave_nothing(name: str, start: str) -> None:
    engine = make_engine()
    with pytest.raises(InvalidArgument):
        getattr(engine, start)(BAD_TASKS[name])
    assert_idle(engine)


@pytest.mark.parametrize("start", ["start_prefill", "reserve_decode"])
def test_uneven_recovery_is_local_only(start: str) -> None:
    with pytest.raises(InvalidArgument, match="local prefill"):
        getattr(make_engine(), start)(make_task(n=2, emitted=((5,), ())))


def test_more_children_than_the_worker_runs() -> None:
    with pytest.raises(InvalidArgument) as caught:
        make_engine(max_sequences=2).start_local(make_task(n=3))
    assert caught.value.reason == TOO_LARGE


def test_starting_twice_is_once() -> None:
    engine = make_engine()
    task = make_task()
    for _ in range(2):
        engine.start_local(task)
    out = drive(engine)
    assert out.tokens["r0", 0] == reference_tokens(task)
