"""Real engines and KV links: what the decode worker has cached is not sent again, nor taken for something else."""

import asyncio
import random
from dataclasses import replace
from pathlib import Path

import pytest

from tandem.chaos.trace import check
from tandem.core import reasons
from tandem.core.ids import LOCAL_TENANT, Epoch, Tenant, new_request_id
from tandem.core.messages import Abort, AttemptFailed, HandoverDone, PrefillDone, ReserveDecode, StartPrefill
from tandem.core.prepared_model import PreparedModel
from tandem.core.types import GenerationTask, KvSource, Role, SamplingParams, StopParams
from tandem.engine.execution import Draw
from tandem.engine.kv.block_cache import CacheSetup
from tandem.engine.scheduling.scheduler import StepPlan
from tandem.kvtransfer import KvReceiverService, KvSenderService
from tests.fakes.engine_driver import make_cache
from tests.fakes.tiny_tokenizer import VOCAB_SIZE
from tests.fakes.worker_pair import Result, Transport, WorkerPair

BLOCK = 16
CACHES = (make_cache(), make_cache())


def task_of(prompt: tuple[int, ...], *, tenant: Tenant = LOCAL_TENANT, max_tokens: int = 12) -> GenerationTask:
    return GenerationTask(
        request_id=new_request_id(),
        attempt=0,
        tenant=tenant,
        prompt_token_ids=prompt,
        num_sequences=1,
        sampling=SamplingParams(temperature=0.9, seed=7),
        stop=StopParams(max_tokens=max_tokens, ignore_eos=True),
        deadline_left_s=60.0,
    )


def words(count: int, seed: int) -> tuple[int, ...]:
    draw = random.Random(seed)
    return tuple(draw.randrange(VOCAB_SIZE) for _ in range(count))


def done_of(result: Result, *, attempt: int = 0) -> HandoverDone:
    assert result.failures() == []
    (done,) = [e for _, e in result.events if isinstance(e, HandoverDone) and e.attempt == attempt]
    return done


def receiver_of(pair: WorkerPair) -> KvReceiverService:
    return pair.decode.host._loop.role._receiver  # type: ignore[attr-defined,no-any-return]


def sender_of(pair: WorkerPair) -> KvSenderService:
    return pair.prefill.host._loop.role._sender  # type: ignore[attr-defined,no-any-return]


async def truth(prepared: PreparedModel, tasks: list[GenerationTask]) -> list[list[tuple[int, ...]]]:
    """The same tasks without any cache, on one worker."""
    async with WorkerPair(prepared) as pair:
        return [(await pair.run(task, KvSource.LOCAL)).token_ids() for task in tasks]


@pytest.mark.parametrize("transport", ["shm", "tcp"])
async def test_the_second_turn_of_a_chat_moves_only_what_is_new(
    tiny_llama: PreparedModel, transport: Transport, tmp_path: Path
) -> None:
    system = words(5 * BLOCK + 3, 1)
    first = task_of(system, max_tokens=2 * BLOCK)
    async with WorkerPair(tiny_llama, transports=(transport,), caches=CACHES, event_log=tmp_path) as pair:
        one = await pair.run(first, KvSource.HANDOVER)
        assert (done_of(one).num_skipped_blocks, done_of(one).num_skipped_bytes) == (0, 0)
        block_bytes = done_of(one).num_bytes // 6
        second = task_of((*system, *one.token_ids()[0], *words(9, 2)))
        two = await pair.run(second, KvSource.HANDOVER)
        # D has 114 tokens (the last one was never fed), 124 are asked: 7 blocks are there, the last one is not.
        assert (done_of(two).num_skipped_blocks, done_of(two).num_bytes) == (7, block_bytes)
        assert done_of(two).num_skipped_bytes == 7 * block_bytes
        counters = receiver_of(pair).snapshot()
        assert (counters.blocks_skipped, counters.bytes_skipped) == (7, 7 * block_bytes)
        assert counters.num_bytes == 7 * block_bytes, "six blocks of the first turn, one of the second"
        async with asyncio.timeout(5.0):
            while sender_of(pair).snapshot().blocks_skipped != 7:
                await asyncio.sleep(0.01)
        # A prompt of full blocks that D has all of: only the seal travels, and P computes one block for its last token.
        whole = task_of(second.prompt_token_ids[: 7 * BLOCK])
        three = await pair.run(whole, KvSource.HANDOVER)
        assert (done_of(three).num_skipped_blocks, done_of(three).num_bytes) == (7, 0)
        (prefilled,) = [e for _, e in three.events if isinstance(e, PrefillDone)]
        assert prefilled.num_cached_tokens < 7 * BLOCK
    assert [one.token_ids(), two.token_ids(), three.token_ids()] == await truth(tiny_llama, [first, second, whole])
    report = check([tmp_path])
    assert [str(violation) for violation in report.violations] == []
    assert report.counts["blocks_borrowed"] > 0


async def test_kv_that_p_holds_goes_to_a_d_with_another_cached_prefix(tiny_llama: PreparedModel) -> None:
    """``reuse_attempt``: the first D had nothing of it, the second one has three blocks, without a second prefill."""
    prompt = words(5 * BLOCK + 5, 3)
    task = task_of(prompt)
    async with WorkerPair(tiny_llama, caches=CACHES) as pair:
        pair.hold_grants = True
        result = pair.start(task, KvSource.HANDOVER)
        async with asyncio.timeout(20.0):
            while not result.has(PrefillDone):
                await asyncio.sleep(0.005)
        pair.decode.send(Abort(request_id=task.request_id, attempt=0, reason=reasons.WORKER_LOST))
        pair.hold_grants = False
        await pair.run(task_of(prompt[: 3 * BLOCK + 2]), KvSource.LOCAL)  # D's cache is another's now
        num_steps = pair.prefill.engine._num_steps
        again = replace(task, attempt=1, deadline_left_s=50.0)
        pair.prefill.send(StartPrefill(task=again, reuse_attempt=0))
        pair.decode.send(ReserveDecode(task=again, source=KvSource.HANDOVER))
        async with asyncio.timeout(20.0):
            await result.ended.wait()
        assert pair.prefill.engine._num_steps == num_steps
        assert done_of(result, attempt=1).num_skipped_blocks == 3
    assert result.token_ids() == (await truth(tiny_llama, [task]))[0]


async def test_what_p_has_cached_leaves_before_its_first_pass(
    tiny_llama: PreparedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = words(5 * BLOCK + 5, 8)
    async with WorkerPair(tiny_llama, caches=(CACHES[0], None)) as pair:
        whole = await pair.run(task_of(prompt), KvSource.HANDOVER)
        executor, sender = pair.prefill.engine._executor, sender_of(pair)
        run, seen = executor.run, list[int]()

        def look_and_run(plan: StepPlan) -> list[Draw]:
            seen.extend(len(transfer.machine._sources) for transfer in sender._transfers.values())
            return run(plan)

        monkeypatch.setattr(executor, "run", look_and_run)
        again = await pair.run(task_of(prompt), KvSource.HANDOVER)
        assert seen == [5], "five cached blocks were offered before the one pass"
        assert again.token_ids() == whole.token_ids()
        assert done_of(again).num_bytes == done_of(whole).num_bytes


async def test_an_abort_gives_back_what_was_borrowed(tiny_llama: PreparedModel) -> None:
    prompt = words(4 * BLOCK + 1, 4)
    async with WorkerPair(tiny_llama, caches=CACHES) as pair:
        await pair.run(task_of(prompt), KvSource.LOCAL)
        pair.hold_grants = True
        task = task_of(prompt)
        pair.start(task, KvSource.HANDOVER)
        table = pair.decode.engine.table
        async with asyncio.timeout(10.0):
            while table.num_readers == 0:
                await asyncio.sleep(0.005)
        pair.abort(task.request_id)
        await pair.settle()
        assert table.num_readers == 0
        assert table.counts().cached == 4, "they stay cached"
        pair.decode.engine.cache.flush(None)  # type: ignore[union-attr]
        assert table.num_free == pair.decode.engine.num_blocks


@pytest.mark.parametrize("which", ["another-secret", "no-cache-at-p"])
async def test_workers_that_name_blocks_differently_refuse_by_name_and_then_send_all(
    tiny_llama: PreparedModel, which: str
) -> None:
    other = CacheSetup(settings=CACHES[0].settings, secret=b"another secret of the tests", epoch=Epoch(9))
    caches = (other if which == "another-secret" else None, CACHES[1])
    prompt = words(4 * BLOCK + 1, 5)
    async with WorkerPair(tiny_llama, caches=caches) as pair:
        await pair.run(task_of(prompt), KvSource.LOCAL)
        task = replace(task_of(prompt), request_id=new_request_id())
        refused = pair.start(task, KvSource.HANDOVER)
        async with asyncio.timeout(20.0):
            while len({role for role, e in refused.events if isinstance(e, AttemptFailed)}) < 2:
                await asyncio.sleep(0.005)
        assert {failure.reason for failure in refused.failures()} == {reasons.KV_PREFIX}
        assert all(failure.retryable for failure in refused.failures())
        held = [e.held for role, e in refused.events if role is Role.PREFILL and isinstance(e, AttemptFailed)]
        assert held == [True], "what P has computed is as good as before"
        pair.abort(task.request_id)
        await pair.settle()
        again = await pair.run(task_of(prompt), KvSource.HANDOVER)
        assert done_of(again).num_skipped_blocks == 0, "D sends for everything now"
    assert again.token_ids() == (await truth(tiny_llama, [task]))[0]


async def test_a_worker_with_a_secret_of_its_own_lets_everything_come(tiny_llama: PreparedModel) -> None:
    own = replace(CACHES[1], is_shared_secret=False)
    prompt = words(4 * BLOCK + 1, 6)
    async with WorkerPair(tiny_llama, caches=(CACHES[0], own)) as pair:
        await pair.run(task_of(prompt), KvSource.LOCAL)
        result = await pair.run(task_of(prompt), KvSource.HANDOVER)
        assert done_of(result).num_skipped_blocks == 0


async def test_another_tenant_s_blocks_are_sent_again(tiny_llama: PreparedModel) -> None:
    prompt = words(4 * BLOCK + 1, 7)
    async with WorkerPair(tiny_llama, caches=CACHES) as pair:
        await pair.run(task_of(prompt, tenant=Tenant("a")), KvSource.LOCAL)
        theirs = await pair.run(task_of(prompt, tenant=Tenant("b")), KvSource.HANDOVER)
        assert done_of(theirs).num_skipped_blocks == 0
        mine = await pair.run(task_of(prompt, tenant=Tenant("a")), KvSource.HANDOVER)
        assert done_of(mine).num_skipped_blocks == 4
