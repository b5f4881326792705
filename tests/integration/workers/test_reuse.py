"""KV that a prefill worker still holds goes to a second decode worker: not computed again, exact, freed once."""

import asyncio
import random
from dataclasses import replace

import pytest

from tandem.core import reasons
from tandem.core.blocks import AttemptKey
from tandem.core.ids import LOCAL_TENANT, RequestId, new_request_id
from tandem.core.messages import (
    Abort,
    AttemptFailed,
    AttemptReleased,
    HandoverDone,
    PrefillDone,
    ReserveDecode,
    StartPrefill,
)
from tandem.core.prepared_model import PreparedModel
from tandem.core.types import GenerationTask, KvSource, Role, SamplingParams, StopParams
from tests.fakes.tiny_tokenizer import VOCAB_SIZE
from tests.fakes.worker_pair import Result, WorkerPair


def _task(*, num_prompt: int = 70, num_sequences: int = 1, seed: int = 7) -> GenerationTask:
    draw = random.Random(num_prompt)
    return GenerationTask(
        request_id=new_request_id(),
        attempt=0,
        tenant=LOCAL_TENANT,
        prompt_token_ids=tuple(draw.randrange(VOCAB_SIZE) for _ in range(num_prompt)),
        num_sequences=num_sequences,
        sampling=SamplingParams(temperature=0.9 if seed else 0.0, top_p=0.95, seed=seed, num_logprobs=2),
        stop=StopParams(max_tokens=12, ignore_eos=True),
        deadline_left_s=60.0,
    )


def _events_of(result: Result, kind: type[object], *, role: Role, attempt: int) -> list[object]:
    return [e for who, e in result.events if who is role and isinstance(e, kind) and e.attempt == attempt]


async def _until(result: Result, kind: type[object], *, role: Role, attempt: int) -> object:
    async with asyncio.timeout(20.0):
        while not (found := _events_of(result, kind, role=role, attempt=attempt)):
            await asyncio.sleep(0.005)
    return found[0]


def _lose_decode(pair: WorkerPair, request_id: RequestId) -> None:
    """All of the first attempt that D holds goes; P is told nothing, as by a router that keeps it."""
    pair.decode.send(Abort(request_id=request_id, attempt=0, reason=reasons.WORKER_LOST))


def _hand_over_again(pair: WorkerPair, task: GenerationTask) -> None:
    again = replace(task, attempt=1, deadline_left_s=50.0)
    pair.hold_grants = False
    pair.prefill.send(StartPrefill(task=again, reuse_attempt=0))
    pair.decode.send(ReserveDecode(task=again, source=KvSource.HANDOVER))


@pytest.mark.parametrize(("num_sequences", "seed"), [(1, 0), (1, 7), (3, 7)])
async def test_sealed_kv_is_handed_over_again_without_a_step(
    tiny_llama: PreparedModel, num_sequences: int, seed: int
) -> None:
    async with WorkerPair(tiny_llama) as pair:
        task = _task(num_sequences=num_sequences, seed=seed)
        local = await pair.run(task, KvSource.LOCAL)
        pair.hold_grants = True
        result = pair.start(task, KvSource.HANDOVER)
        await _until(result, PrefillDone, role=Role.PREFILL, attempt=0)
        num_steps = pair.prefill.engine._num_steps
        num_held = pair.prefill.engine.load().total_blocks - pair.prefill.engine.load().free_blocks
        assert num_held == 5
        _lose_decode(pair, task.request_id)
        _hand_over_again(pair, task)
        done = await _until(result, PrefillDone, role=Role.PREFILL, attempt=1)
        assert isinstance(done, PrefillDone)
        assert (done.compute_ms, done.wait_ms) == (0.0, 0.0)
        async with asyncio.timeout(20.0):
            await result.ended.wait()
        assert pair.prefill.engine._num_steps == num_steps, "nothing was computed again"
        assert result.token_ids() == local.token_ids()
        assert [s.text for s in result.sequences.values()] == [s.text for s in local.sequences.values()]
        assert [s.num_repeated for s in result.sequences.values()] == [1] * num_sequences, (
            "P said its first tokens twice"
        )
        assert result.failures() == []
        assert len(_events_of(result, HandoverDone, role=Role.DECODE, attempt=1)) == 1
        # Leaving the block checks that every block is free, and that the books of both tables balance.


async def test_kv_under_way_is_computed_to_its_end_for_the_second_attempt(tiny_llama: PreparedModel) -> None:
    async with WorkerPair(tiny_llama) as pair:
        task = _task(num_prompt=500, num_sequences=2)
        local = await pair.run(task, KvSource.LOCAL)
        first_steps = pair.prefill.engine._num_steps
        result = pair.start(task, KvSource.HANDOVER)
        async with asyncio.timeout(20.0):
            while pair.prefill.engine._num_steps < first_steps + 3:
                await asyncio.sleep(0)
        _lose_decode(pair, task.request_id)
        _hand_over_again(pair, task)
        async with asyncio.timeout(20.0):
            await result.ended.wait()
        assert result.token_ids() == local.token_ids()
        assert pair.prefill.engine._num_steps - first_steps <= 500 // 32 + 3, "no chunk was computed twice"


async def test_held_kv_is_freed_when_its_lease_ends_and_is_not_handed_over_then(
    tiny_llama: PreparedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tandem.prefill_worker.role._HOLD_S", 0.4)
    async with WorkerPair(tiny_llama) as pair:
        task = _task()
        pair.hold_grants = True
        result = pair.start(task, KvSource.HANDOVER)
        await _until(result, PrefillDone, role=Role.PREFILL, attempt=0)
        _lose_decode(pair, task.request_id)
        role = pair.prefill.host._loop.role
        key = AttemptKey(task.request_id, 0)
        pair.prefill.host._loop._inbox.post(lambda: role._on_transfer_failed(key, reasons.KV_PEER_LOST, True))  # type: ignore[attr-defined]
        failed = await _until(result, AttemptFailed, role=Role.PREFILL, attempt=0)
        assert isinstance(failed, AttemptFailed)
        assert failed.held
        assert pair.prefill.engine.load().free_blocks < pair.prefill.engine.num_blocks
        await pair.settle(timeout_s=2.0)  # 0.4 s, and the idle engine looks each 0.25 s
        _hand_over_again(pair, task)
        refused = await _until(result, AttemptFailed, role=Role.PREFILL, attempt=1)
        assert isinstance(refused, AttemptFailed)
        assert (refused.reason, refused.held) == (reasons.KV_NOT_HELD, False)
        pair.decode.send(Abort(request_id=task.request_id, attempt=1, reason=reasons.KV_NOT_HELD))


async def test_an_abort_frees_what_is_held(tiny_llama: PreparedModel) -> None:
    async with WorkerPair(tiny_llama) as pair:
        task = _task()
        pair.hold_grants = True
        result = pair.start(task, KvSource.HANDOVER)
        await _until(result, PrefillDone, role=Role.PREFILL, attempt=0)
        _lose_decode(pair, task.request_id)
        _hand_over_again(pair, task)
        pair.prefill.send(Abort(request_id=task.request_id, attempt=1, reason="TEST"))
        pair.decode.send(Abort(request_id=task.request_id, attempt=1, reason="TEST"))
        await _until(result, AttemptReleased, role=Role.PREFILL, attempt=1)
        await pair.settle(timeout_s=5.0)
