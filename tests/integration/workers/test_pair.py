"""Hand-over between two real workers: the same tokens as without, and nothing left behind, whatever happens."""

import asyncio
import random
from dataclasses import replace

import pytest

from tandem.core.ids import LOCAL_TENANT, RequestId, new_request_id
from tandem.core.messages import (
    AttemptReleased,
    ForwardGrant,
    HandoverDone,
    Hello,
    PrefillDone,
    ReserveDecode,
    StartPrefill,
)
from tandem.core.prepared_model import PreparedModel
from tandem.core.reasons import DRAINING, KV_LAYOUT, WRONG_ROLE
from tandem.core.types import FinishReason, GenerationTask, KvSource, Role, SamplingParams, StopParams
from tandem.engine.config import EngineConfig
from tests.fakes.tiny_tokenizer import VOCAB_SIZE
from tests.fakes.worker_pair import Transport, WorkerPair


def _task(num_prompt: int, *, seed: int = 0, num_sequences: int = 1, max_tokens: int = 12) -> GenerationTask:
    draw = random.Random(num_prompt * 31 + seed)
    return GenerationTask(
        request_id=RequestId(""),
        attempt=0,
        tenant=LOCAL_TENANT,
        prompt_token_ids=tuple(draw.randrange(VOCAB_SIZE) for _ in range(num_prompt)),
        num_sequences=num_sequences,
        sampling=SamplingParams(temperature=0.9 if seed else 0.0, top_p=0.95, seed=seed),
        stop=StopParams(max_tokens=max_tokens, ignore_eos=True),
        deadline_left_s=60.0,
    )


@pytest.mark.parametrize("transport", ["shm", "tcp"])
async def test_split_equals_local_around_block_and_chunk_edges(tiny_llama: PreparedModel, transport: Transport) -> None:
    async with WorkerPair(tiny_llama, transports=[transport]) as pair:
        for num_prompt in (1, 2, 15, 16, 17, 31, 32, 33, 47, 48, 49, 64, 65, 100):
            for seed in (0, 7):
                task = _task(num_prompt, seed=seed, num_sequences=1 + num_prompt % 3)
                split = await pair.run(task, KvSource.HANDOVER)
                local = await pair.run(task, KvSource.LOCAL)
                assert split.failures() == []
                assert split.token_ids() == local.token_ids()
                assert [s.text for s in split.sequences.values()] == [s.text for s in local.sequences.values()]
                handed = [e for _, e in split.events if isinstance(e, HandoverDone)]
                assert [e.transport for e in handed] == [transport]
                assert not local.has(HandoverDone)


async def test_many_at_once_equal_one_by_one(tiny_llama: PreparedModel) -> None:
    tasks = [_task(3 + 9 * i, seed=i % 3, num_sequences=1 + i % 2) for i in range(12)]
    async with WorkerPair(tiny_llama, engine=EngineConfig(num_blocks=256, max_batched_tokens=32)) as pair:
        alone = [(await pair.run(task, KvSource.LOCAL)).token_ids() for task in tasks]
        together = await asyncio.gather(*(pair.run(task, KvSource.HANDOVER) for task in tasks))
    assert [result.token_ids() for result in together] == alone
    assert all(s.num_repeated == 0 for result in together for s in result.sequences.values())


async def test_first_token_comes_from_the_prefill_worker_and_the_rest_from_decode(tiny_llama: PreparedModel) -> None:
    async with WorkerPair(tiny_llama) as pair:
        pair.hold_grants = True
        task = replace(_task(40), request_id=new_request_id())
        result = pair.start(task, KvSource.HANDOVER)
        async with asyncio.timeout(10):
            while not result.sequences:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        # Without the grant there is no hand-over, and still the first token is out: TTFT does not wait for KV.
        assert [list(s.tokens) for s in result.sequences.values()] == [[0]]
        assert result.has(PrefillDone)
        assert not result.has(HandoverDone)
        pair.abort(task.request_id)


async def test_finishing_at_the_first_token_needs_no_handover(tiny_llama: PreparedModel) -> None:
    async with WorkerPair(tiny_llama) as pair:
        result = await pair.run(_task(20, max_tokens=1, num_sequences=2), KvSource.HANDOVER)
        assert [s.finish_reason for s in result.sequences.values()] == [FinishReason.LENGTH] * 2
        assert [len(t) for t in result.token_ids()] == [1, 1]
        assert not result.has(HandoverDone)


async def test_stop_strings_and_stop_tokens_across_the_border(tiny_llama: PreparedModel) -> None:
    async with WorkerPair(tiny_llama) as pair:
        base = _task(20, max_tokens=16)
        free = await pair.run(base, KvSource.LOCAL)
        text, tokens = free.sequences[0].text, free.token_ids()[0]
        for start in range(0, max(1, len(text) - 3), 2):
            stop = text[start : start + 3]
            task = replace(base, stop=replace(base.stop, stop=(stop,)))
            split = await pair.run(task, KvSource.HANDOVER)
            local = await pair.run(task, KvSource.LOCAL)
            assert split.sequences[0].text == local.sequences[0].text == text[: text.index(stop)]
            assert split.sequences[0].finish_reason is FinishReason.STOP
            assert split.token_ids() == local.token_ids()
        for position in range(4):
            task = replace(base, stop=replace(base.stop, stop_token_ids=(tokens[position],)))
            result = await pair.run(task, KvSource.HANDOVER)
            assert result.token_ids()[0] == tokens[: tokens.index(tokens[position]) + 1]
            assert result.sequences[0].finish_reason is FinishReason.STOP


async def test_recovery_goes_on_exactly(tiny_llama: PreparedModel) -> None:
    """A new attempt that is told what was emitted gives exactly the rest, split and local, greedy and sampled."""
    async with WorkerPair(tiny_llama) as pair:
        for seed in (0, 5):
            whole = (await pair.run(_task(37, seed=seed, max_tokens=14), KvSource.LOCAL)).token_ids()[0]
            for num_emitted in (1, 5, 11, 13):
                task = replace(_task(37, seed=seed, max_tokens=14), emitted=(whole[:num_emitted],))
                for source in KvSource:
                    result = await pair.run(task, source)
                    assert min(result.sequences[0].tokens) == num_emitted
                    assert result.token_ids()[0] == whole[num_emitted:]


async def test_aborts_at_any_time_free_everything(tiny_llama: PreparedModel) -> None:
    draw = random.Random(11)
    async with WorkerPair(tiny_llama) as pair:
        for _ in range(60):
            task = replace(
                _task(draw.randrange(1, 120), seed=3, num_sequences=2, max_tokens=40), request_id=new_request_id()
            )
            pair.start(task, draw.choice(list(KvSource)))
            await asyncio.sleep(draw.uniform(0.0, 0.03))
            pair.abort(task.request_id)
            if draw.random() < 0.3:
                pair.abort(task.request_id)
        await pair.settle()
        after = await pair.run(_task(50), KvSource.HANDOVER)
        assert after.token_ids() == (await pair.run(_task(50), KvSource.LOCAL)).token_ids()


async def test_a_lost_router_ends_its_requests_only(tiny_llama: PreparedModel) -> None:
    async with WorkerPair(tiny_llama) as pair:
        other = pair.decode.host.attach(Hello(router_id="other"))
        doomed = replace(_task(10, max_tokens=500), request_id=new_request_id())
        pair.decode.host.command(other, ReserveDecode(task=doomed, source=KvSource.LOCAL))
        kept = pair.start(replace(_task(10, max_tokens=60), request_id=new_request_id()), KvSource.LOCAL)
        await asyncio.sleep(0.03)
        pair.decode.host.detach(other)
        async with asyncio.timeout(20):
            await kept.ended.wait()
        assert len(kept.token_ids()[0]) == 60
        assert kept.failures() == []


async def test_repeated_commands_change_nothing(tiny_llama: PreparedModel) -> None:
    async with WorkerPair(tiny_llama) as pair:
        task = replace(_task(33), request_id=new_request_id())
        result = pair.start(task, KvSource.HANDOVER)
        for _ in range(3):
            pair.prefill.send(StartPrefill(task=task))
            pair.decode.send(ReserveDecode(task=task, source=KvSource.HANDOVER))
        async with asyncio.timeout(20):
            await result.ended.wait()
        assert result.failures() == []
        assert result.sequences[0].num_repeated == 0
        assert result.token_ids() == (await pair.run(_task(33), KvSource.LOCAL)).token_ids()


async def test_draining_refuses_new_work_and_finishes_the_old(tiny_llama: PreparedModel) -> None:
    async with WorkerPair(tiny_llama) as pair:
        running = pair.start(replace(_task(10, max_tokens=40), request_id=new_request_id()), KvSource.LOCAL)
        await asyncio.sleep(0.01)
        drained = asyncio.create_task(pair.decode.host.drain(20.0))
        await asyncio.sleep(0.01)
        refused = await pair.run(_task(10), KvSource.LOCAL)
        assert [(f.reason, f.retryable) for f in refused.failures()] == [(DRAINING, True)]
        assert await drained == 0
        async with asyncio.timeout(5):
            await running.ended.wait()
        assert len(running.token_ids()[0]) == 40
        assert pair.decode.host.describe().draining


async def test_a_role_refuses_the_other_roles_commands(tiny_llama: PreparedModel) -> None:
    async with WorkerPair(tiny_llama) as pair:
        task = replace(_task(10), request_id=new_request_id())
        result = pair.start(task, KvSource.LOCAL)
        pair.prefill.send(ReserveDecode(task=task, source=KvSource.LOCAL))
        async with asyncio.timeout(10):
            while not result.failures():
                await asyncio.sleep(0.01)
        assert result.failures()[0].reason == WRONG_ROLE


async def test_other_layouts_are_refused_before_any_byte(tiny_llama: PreparedModel) -> None:
    small = EngineConfig(num_blocks=64, block_size=8, max_batched_tokens=32)
    async with WorkerPair(tiny_llama, decode_engine=small) as pair:
        result = await pair.run(_task(40), KvSource.HANDOVER)
        assert result.failures()[0].reason == KV_LAYOUT
        assert not result.has(HandoverDone)


async def test_a_forged_grant_fails_that_request_alone(tiny_llama: PreparedModel) -> None:
    async with WorkerPair(tiny_llama) as pair:
        pair.hold_grants = True
        task = replace(_task(40), request_id=new_request_id())
        result = pair.start(task, KvSource.HANDOVER)
        pair.prefill.send(ForwardGrant(request_id=task.request_id, attempt=0, grant=b"\x80rubbish"))
        async with asyncio.timeout(10):
            await result.ended.wait()
        assert len(result.failures()) == 1
        pair.hold_grants = False
        assert (await pair.run(_task(40), KvSource.HANDOVER)).failures() == []


async def test_bad_tasks_are_refused_by_the_worker_itself(tiny_llama: PreparedModel) -> None:
    async with WorkerPair(tiny_llama) as pair:
        base = _task(10)
        for bad in (
            replace(base, prompt_token_ids=()),
            replace(base, prompt_token_ids=(VOCAB_SIZE,)),
            replace(base, stop=StopParams(max_tokens=0)),
            replace(base, num_sequences=9),
            replace(base, prompt_token_ids=(1,) * 1000, stop=StopParams(max_tokens=1000)),
        ):
            result = await pair.run(bad, KvSource.LOCAL)
            assert len(result.failures()) >= 1
            assert not result.failures()[0].retryable


async def test_beats_come_and_carry_the_role(tiny_llama: PreparedModel) -> None:
    async with WorkerPair(tiny_llama) as pair:
        await asyncio.sleep(0.3)
        assert {beat.role for beat in pair.beats} == {Role.PREFILL, Role.DECODE}
        assert len(pair.beats) >= 6


async def test_released_is_said_once_everything_is_free(tiny_llama: PreparedModel) -> None:
    async with WorkerPair(tiny_llama) as pair:
        result = await pair.run(_task(20), KvSource.HANDOVER)
        async with asyncio.timeout(5):
            while {role for role, e in result.events if isinstance(e, AttemptReleased)} != set(Role):
                await asyncio.sleep(0.01)
        released = [role for role, e in result.events if isinstance(e, AttemptReleased)]
        assert sorted(released) == [Role.DECODE, Role.PREFILL]
