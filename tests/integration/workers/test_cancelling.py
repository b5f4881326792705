"""A cancel at every chunk, at every prompt step, and around the very end: blocks free within a step and a chunk, one
last word per side, nothing pinned. Real threads and sockets."""

import asyncio
import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from tandem.core.blocks import AttemptKey, BlockRef
from tandem.core.ids import LOCAL_TENANT, RequestId, new_request_id
from tandem.core.messages import AttemptFailed, AttemptReleased
from tandem.core.prepared_model import PreparedModel
from tandem.core.types import GenerationTask, KvSource, Role, SamplingParams, StopParams
from tandem.engine.batch import ForwardBatch
from tandem.engine.config import EngineConfig
from tandem.worker_host.kv_memory import EngineBlockMemory
from tests.fakes.tiny_tokenizer import VOCAB_SIZE
from tests.fakes.worker_pair import Result, WorkerPair

NUM_CHUNKS = 6  # of a prompt of as many blocks
HOLD_S = 0.05
FREE_WITHIN_S = 1.0
NUM_RACES = 1000


def _task(num_prompt: int, *, max_tokens: int = 12, seed: int = 0) -> GenerationTask:
    draw = random.Random(num_prompt * 31 + seed)
    return GenerationTask(
        request_id=new_request_id(),
        attempt=0,
        tenant=LOCAL_TENANT,
        prompt_token_ids=tuple(draw.randrange(VOCAB_SIZE) for _ in range(num_prompt)),
        num_sequences=1,
        sampling=SamplingParams(),
        stop=StopParams(max_tokens=max_tokens, ignore_eos=True),
        deadline_left_s=60.0,
    )


class _Trap:
    """A hand-over thread is held with its ``index``-th block in its hands, until ``let_go``; ``sprung`` says so."""

    def __init__(self, inner: Callable[[EngineBlockMemory, BlockRef, AttemptKey], memoryview | None]) -> None:
        self._inner = inner
        self.index = -1
        self.request_id: RequestId | None = None
        self.num_passed = 0
        self.sprung = threading.Event()
        self.let_go = threading.Event()

    def set(self, request_id: RequestId, index: int) -> None:
        self.request_id, self.index, self.num_passed = request_id, index, 0
        self.sprung.clear()
        self.let_go.clear()

    def patch(self) -> Callable[[EngineBlockMemory, BlockRef, AttemptKey], memoryview | None]:
        def passing(memory: EngineBlockMemory, ref: BlockRef, key: AttemptKey) -> memoryview | None:
            view = self._inner(memory, ref, key)
            if key.request_id == self.request_id and view is not None:
                self.num_passed += 1
                if self.num_passed == self.index + 1:
                    self.sprung.set()
                    self.let_go.wait(10.0)  # a slow chunk
            return view

        return passing


@pytest.mark.parametrize("place", ["pin", "begin_write"])
async def test_a_cancel_at_each_chunk(place: str, tiny_llama: PreparedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a chunk is copied out at P, or in at D: both sides are free once that chunk is through, and no later."""
    trap = _Trap(getattr(EngineBlockMemory, place))
    monkeypatch.setattr(EngineBlockMemory, place, trap.patch())
    # The pool holds this one request: nothing of it may be left for the next to fit in.
    settings = EngineConfig(num_blocks=NUM_CHUNKS + 1, max_batched_tokens=32)
    async with WorkerPair(tiny_llama, transports=["tcp"], engine=settings) as pair:
        expected = (await pair.run(_task(16 * NUM_CHUNKS), KvSource.LOCAL)).token_ids()
        for index in range(NUM_CHUNKS):
            task = _task(16 * NUM_CHUNKS)
            trap.set(task.request_id, index)
            pair.start(task, KvSource.HANDOVER)
            assert await asyncio.to_thread(trap.sprung.wait, 10.0)
            began_s = time.monotonic()
            pair.abort(task.request_id)
            async with asyncio.timeout(FREE_WITHIN_S):
                while pair.prefill.host.num_attempts + pair.decode.host.num_attempts:
                    await asyncio.sleep(0.002)
            held = [worker.engine.table.counts() for worker in (pair.prefill, pair.decode)]
            assert [counts.free + counts.released for counts in held] == [counts.total for counts in held]
            assert sum(counts.released for counts in held) >= 1, "a block is free while somebody copies it"
            trap.let_go.set()
            await pair.settle()
            assert time.monotonic() - began_s < 2 * FREE_WITHIN_S
            assert trap.num_passed == index + 1, "another block was held after the cancel"
            again = await pair.run(_task(16 * NUM_CHUNKS), KvSource.HANDOVER)
            assert again.token_ids() == expected


async def test_a_cancel_at_each_prompt_step(tiny_llama: PreparedModel) -> None:
    """The step that runs ends; there is no other for that request."""
    settings = EngineConfig(num_blocks=64, max_batched_tokens=16)
    async with WorkerPair(tiny_llama, engine=settings) as pair:
        runner = pair.prefill.engine._executor._runner
        forward, entered = runner.forward, threading.Event()
        num_passes, stop_at = 0, -1

        def slow_forward(batch: ForwardBatch) -> torch.Tensor:
            nonlocal num_passes
            num_passes += 1
            if num_passes == stop_at + 1:
                entered.set()
                time.sleep(HOLD_S)
            return forward(batch)

        runner.forward = slow_forward  # type: ignore[method-assign]
        for stop_at in range(NUM_CHUNKS):
            num_passes = 0
            entered.clear()
            task = _task(16 * NUM_CHUNKS)
            pair.start(task, KvSource.HANDOVER)
            assert await asyncio.to_thread(entered.wait, 10.0)
            began_s = time.monotonic()
            pair.abort(task.request_id)
            await pair.settle()
            assert time.monotonic() - began_s < FREE_WITHIN_S + HOLD_S
            assert num_passes == stop_at + 1, "the prompt was computed further after the cancel"


async def test_cancels_around_the_end(tiny_llama: PreparedModel) -> None:
    """±5 ms: whichever comes first, each side says its last word once and holds nothing (vLLM #29906: 480 s)."""
    draw = random.Random(5)
    settings = EngineConfig(num_blocks=192, max_batched_tokens=128)
    async with WorkerPair(tiny_llama, engine=settings) as pair:
        results: list[tuple[KvSource, Result]] = []
        # How long one takes changes with the load, so the aim follows: later while cancels win, earlier while ends do.
        aim_s = dict.fromkeys(KvSource, 0.01)

        async def race() -> None:
            source = draw.choice(list(KvSource))
            task = replace(_task(20, max_tokens=3, seed=draw.randrange(9)), request_id=new_request_id())
            result = pair.start(task, source)
            results.append((source, result))
            await asyncio.sleep(max(0.0, aim_s[source] + draw.uniform(-0.005, 0.005)))
            aim_s[source] += -0.0005 if result.ended.is_set() else 0.0005
            pair.abort(task.request_id)

        async def races(count: int) -> None:
            for _ in range(count):
                await race()

        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(races(NUM_RACES // 4))
        await pair.settle()
        await asyncio.sleep(0.1)  # the last reports
        for worker in (pair.prefill, pair.decode):
            counts = worker.engine.table.counts()
            assert (counts.free, counts.released) == (counts.total, 0)
    num_finished = sum(result.ended.is_set() for _, result in results)
    assert 0.1 * NUM_RACES < num_finished < 0.9 * NUM_RACES, f"no race: {num_finished} of {NUM_RACES} had ended"
    for source, result in results:
        words = [
            role
            for role, event in result.events
            if isinstance(event, AttemptReleased) or (isinstance(event, AttemptFailed) and event.child is None)
        ]
        assert sorted(words) == sorted(Role if source is KvSource.HANDOVER else [Role.DECODE]), result.events
