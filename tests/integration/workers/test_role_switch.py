"""A worker changes its role in place: the same engine, its weights and its cache, and no request the worse for it."""

import asyncio
import random
from dataclasses import replace
from pathlib import Path

from tandem.chaos.trace import check
from tandem.core.ids import LOCAL_TENANT, Epoch, new_request_id
from tandem.core.messages import AttemptFailed, Beat, HandoverDone, PrefillDone
from tandem.core.prepared_model import PreparedModel
from tandem.core.reasons import DRAINING, WRONG_ROLE
from tandem.core.role_commands import CommandKind, RoleAnswer, RoleCommand
from tandem.core.types import GenerationTask, KvSource, Role, SamplingParams, StopParams
from tests.fakes.engine_driver import make_cache
from tests.fakes.tiny_tokenizer import VOCAB_SIZE
from tests.fakes.worker_pair import WorkerPair


def _task(num_prompt: int, *, max_tokens: int = 12) -> GenerationTask:
    draw = random.Random(num_prompt)
    return GenerationTask(
        request_id=new_request_id(),
        attempt=0,
        tenant=LOCAL_TENANT,
        prompt_token_ids=tuple(draw.randrange(VOCAB_SIZE) for _ in range(num_prompt)),
        num_sequences=1,
        sampling=SamplingParams(temperature=0.9, seed=3),
        stop=StopParams(max_tokens=max_tokens, ignore_eos=True),
        deadline_left_s=60.0,
    )


class _Controller:
    """Numbers commands to the two workers of a pair."""

    def __init__(self, pair: WorkerPair, term: int = 1) -> None:
        self.pair = pair
        self.term = term
        self.sequence = 0

    async def say(self, name: str, kind: CommandKind, role: Role | None = None) -> RoleAnswer:
        host = (self.pair.prefill if name == "prefill" else self.pair.decode).host
        self.sequence += kind is not CommandKind.CLAIM
        return await host.command_role(
            RoleCommand(
                kind=kind,
                worker_id=host.info.worker_id,
                epoch=host.info.epoch,
                term=self.term,
                sequence=0 if kind is CommandKind.CLAIM else self.sequence,
                role=role,
            )
        )

    async def drained(self, name: str) -> None:
        assert not (await self.say(name, CommandKind.CLAIM)).refusal
        assert not (await self.say(name, CommandKind.DRAIN)).refusal
        async with asyncio.timeout(20):
            while (await self.say(name, CommandKind.CLAIM)).report.busy:
                await asyncio.sleep(0.01)


async def _swap(pair: WorkerPair, *, term: int = 1) -> None:
    """Both workers change their roles; the pair's names follow."""
    controller = _Controller(pair, term)
    for name, role in (("prefill", Role.DECODE), ("decode", Role.PREFILL)):
        await controller.drained(name)
        answer = await controller.say(name, CommandKind.SWITCH, role)
        assert (answer.refusal, answer.report.role, answer.report.draining) == ("", role, False)
    pair.prefill, pair.decode = pair.decode, pair.prefill


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


async def test_two_workers_swap_their_roles_and_give_the_same_tokens(tiny_llama: PreparedModel, tmp_path: Path) -> None:
    async with WorkerPair(tiny_llama, event_log=tmp_path) as pair:
        engines = (pair.prefill.engine, pair.decode.engine)
        weights = [engine.pool.data.data_ptr() for engine in engines]
        tasks = [_task(count) for count in (1, 17, 48, 90)]
        before = [await pair.run(task, KvSource.HANDOVER) for task in tasks]
        await _swap(pair)
        after = await asyncio.gather(*(pair.run(task, KvSource.HANDOVER) for task in tasks))
        assert all(result.failures() == [] and result.has(HandoverDone) for result in (*before, *after))
        assert [r.token_ids() for r in after] == [r.token_ids() for r in before]
        assert (pair.decode.engine, pair.prefill.engine) == engines, "the engines stayed"
        assert [engine.pool.data.data_ptr() for engine in engines] == weights
        assert (pair.prefill.host.info.role, pair.decode.host.info.role) == (Role.PREFILL, Role.DECODE)
        await _swap(pair, term=2)  # and back
        again = await pair.run(tasks[2], KvSource.HANDOVER)
        assert again.token_ids() == before[2].token_ids()
    report = check(_files(tmp_path))
    broken = [violation for violation in report.violations if violation.invariant != "I7"]
    assert broken == [], "two workers can't swap without a gap, and nothing else may break"


async def test_what_is_cached_is_there_in_the_other_role(tiny_llama: PreparedModel) -> None:
    async with WorkerPair(tiny_llama, caches=(make_cache(), make_cache())) as pair:
        first = await pair.run(_task(80), KvSource.HANDOVER)
        await _swap(pair)
        second = await pair.run(_task(80), KvSource.HANDOVER)
        (done,) = [e for _, e in second.events if isinstance(e, PrefillDone)]
        assert done.num_cached_tokens >= 64, "the new prefill worker had it from its time as a decode worker"
        assert second.token_ids() == first.token_ids()


async def test_a_running_answer_keeps_a_worker_in_its_role_until_it_is_handed_over(tiny_llama: PreparedModel) -> None:
    async with WorkerPair(tiny_llama) as pair:
        task = _task(20, max_tokens=400)
        running = pair.start(task, KvSource.LOCAL)
        controller = _Controller(pair)
        async with asyncio.timeout(10):
            while not running.sequences:
                await asyncio.sleep(0.01)
        await controller.say("decode", CommandKind.CLAIM)
        assert (await controller.say("decode", CommandKind.HAND_OVER)).refusal == "not draining"
        assert (await controller.say("decode", CommandKind.SWITCH, Role.PREFILL)).refusal == "not drained"
        drained = await controller.say("decode", CommandKind.DRAIN)
        assert drained.report.draining
        if drained.report.busy:  # else the tiny model was quicker
            refused = await controller.say("decode", CommandKind.SWITCH, Role.PREFILL)
            assert refused.refusal in ("not drained", "")
        await controller.say("decode", CommandKind.HAND_OVER)
        answer = await controller.say("decode", CommandKind.SWITCH, Role.PREFILL)
        assert answer.report.role is Role.PREFILL
        failures = running.failures()
        async with asyncio.timeout(10):
            while not running.ended.is_set() and not (failures := running.failures()):
                await asyncio.sleep(0.01)
        assert all(failure.reason == DRAINING and failure.retryable for failure in failures)
        pair.abort(task.request_id)


async def test_a_task_that_overtook_the_news_is_refused_retryably(tiny_llama: PreparedModel) -> None:
    """A router dispatched to a prefill worker that decodes meanwhile: the request must be placed again, not fail."""
    async with WorkerPair(tiny_llama) as pair:
        controller = _Controller(pair)
        await controller.drained("prefill")
        await controller.say("prefill", CommandKind.SWITCH, Role.DECODE)
        task = _task(20)
        result = pair.start(task, KvSource.HANDOVER)
        async with asyncio.timeout(10):
            while not result.failures():
                await asyncio.sleep(0.01)
        (failure,) = [f for f in result.failures() if f.reason == WRONG_ROLE]
        assert failure.retryable
        pair.abort(task.request_id)


async def test_a_decode_task_that_overtook_the_news_is_refused_retryably(tiny_llama: PreparedModel) -> None:
    async with WorkerPair(tiny_llama) as pair:
        controller = _Controller(pair)
        await controller.drained("decode")
        await controller.say("decode", CommandKind.SWITCH, Role.PREFILL)
        task = _task(20)
        result = pair.start(task, KvSource.LOCAL)
        async with asyncio.timeout(10):
            while not result.failures():
                await asyncio.sleep(0.01)
        (failure,) = result.failures()
        assert (failure.reason, failure.retryable) == (WRONG_ROLE, True)


async def test_routers_hear_of_every_change_at_once(tiny_llama: PreparedModel) -> None:
    async with WorkerPair(tiny_llama) as pair:
        before = len(pair.beats)
        controller = _Controller(pair)
        await controller.drained("decode")
        await controller.say("decode", CommandKind.SWITCH, Role.PREFILL)
        async with asyncio.timeout(5):
            while not any(beat.role is Role.PREFILL and not beat.draining for beat in _of(pair, before)):
                await asyncio.sleep(0.01)
        assert any(beat.draining for beat in _of(pair, before))


def _of(pair: WorkerPair, begin: int) -> list[Beat]:
    epoch: Epoch = pair.decode.host.info.epoch
    return [beat for beat in pair.beats[begin:] if beat.worker_epoch == epoch]


async def test_a_role_that_can_not_be_built_leaves_the_old_one_serving(tiny_llama: PreparedModel) -> None:
    async with WorkerPair(tiny_llama) as pair:
        controller = _Controller(pair)
        await controller.drained("prefill")
        desk = pair.prefill.host._desk
        make = desk._make_role

        def broken(role: Role) -> object:
            raise OSError("no port is left")

        desk._make_role = broken  # type: ignore[assignment]
        answer = await controller.say("prefill", CommandKind.SWITCH, Role.DECODE)
        assert "could not be built" in answer.refusal
        assert (answer.report.role, answer.report.draining) == (Role.PREFILL, True)
        desk._make_role = make
        assert not (await controller.say("prefill", CommandKind.UNDRAIN)).report.draining
        assert (await pair.run(_task(30), KvSource.HANDOVER)).has(HandoverDone)


async def test_nobody_calls_back_a_worker_that_is_leaving(tiny_llama: PreparedModel) -> None:
    async with WorkerPair(tiny_llama) as pair:
        assert await pair.decode.host.drain(5.0) == 0
        controller = _Controller(pair)
        await controller.say("decode", CommandKind.CLAIM)
        answer = await controller.say("decode", CommandKind.UNDRAIN)
        assert answer.refusal
        assert answer.report.draining
        result = pair.start(replace(_task(9), request_id=new_request_id()), KvSource.LOCAL)
        async with asyncio.timeout(5):
            while not result.failures():
                await asyncio.sleep(0.01)
        assert [f.reason for f in result.failures() if isinstance(f, AttemptFailed)] == [DRAINING]
