"""Event logs of two real workers under the checker: good runs are found good, and a guard taken out is found out."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tandem.chaos.trace import Report, check
from tandem.core.blocks import BlockRef
from tandem.core.ids import LOCAL_TENANT, RequestId, new_request_id
from tandem.core.prepared_model import PreparedModel
from tandem.core.types import GenerationTask, KvSource, SamplingParams, StopParams
from tandem.engine.config import EngineConfig
from tandem.engine.kv.block_table import BlockTable
from tandem.kvtransfer.chunks import ChunkPlace
from tandem.kvtransfer.frames import Chunk
from tandem.kvtransfer.machine.receiver import HandoverReceiver, ReceiverState
from tandem.kvtransfer.machine.sender import HandoverSender
from tandem.kvtransfer.machine.sender_events import SendChunk, SenderAction, SenderEvent
from tests.fakes.prepared_tiny import prepare_tiny
from tests.fakes.tiny_tokenizer import VOCAB_SIZE
from tests.fakes.worker_pair import WorkerPair


@pytest.fixture(scope="module")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> PreparedModel:
    return prepare_tiny("llama", tmp_path_factory.mktemp("tiny-llama"))


def _task(num_prompt: int, *, seed: int = 0, num_sequences: int = 1, max_tokens: int = 8) -> GenerationTask:
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


async def _run_mixture(pair: WorkerPair) -> None:
    tasks = [_task(5 + 11 * i, seed=i % 3, num_sequences=1 + i % 3) for i in range(8)]
    await asyncio.gather(*(pair.run(task, KvSource.HANDOVER) for task in tasks))
    await asyncio.gather(*(pair.run(task, KvSource.LOCAL) for task in tasks[:4]))
    draw = random.Random(5)
    for _ in range(25):
        task = replace(
            _task(draw.randrange(1, 120), seed=3, num_sequences=2, max_tokens=30), request_id=new_request_id()
        )
        pair.start(task, draw.choice(list(KvSource)))
        await asyncio.sleep(draw.uniform(0.0, 0.03))
        pair.abort(task.request_id)
    await pair.settle()


async def test_a_good_run_is_found_good(tiny_llama: PreparedModel, tmp_path: Path) -> None:
    # Few blocks: sequences are preempted, blocks are used again and again.
    async with WorkerPair(
        tiny_llama, engine=EngineConfig(num_blocks=40, max_batched_tokens=32), event_log=tmp_path
    ) as pair:
        await _run_mixture(pair)
    report = check([tmp_path])
    assert [str(violation) for violation in report.violations] == []
    assert report.is_complete
    assert (report.num_processes, report.num_killed) == (2, 0)
    for kind in (
        "blocks_allocated", "blocks_sealed", "blocks_committed", "blocks_freed", "block_pinned", "block_unpinned",
        "grant_made", "grant_ended", "chunk_accepted", "handover_sealed", "handover_committed", "commit_acknowledged",
        "decode_step", "role_changed", "log_opened", "log_closed",
    ):  # fmt: skip
        assert report.counts.get(kind, 0) > 0, kind
    for invariant in ("I1", "I2", "I3", "I6", "I7", "I8"):
        assert report.num_checks[invariant] > 0, invariant


def _send_old_generations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every chunk names the use of its block before the one that was granted, as a late one would."""
    honest = HandoverSender.on_event

    def on_event(self: HandoverSender, now_s: float, event: SenderEvent) -> list[SenderAction]:
        actions = honest(self, now_s, event)
        for action in actions:
            if isinstance(action, SendChunk):
                action.target = BlockRef(action.target.block_id, action.target.generation - 1)
        return actions

    monkeypatch.setattr(HandoverSender, "on_event", on_event)


def _has_chunks(folder: Path) -> bool:
    return any(b'"chunk_' in path.read_bytes() for path in folder.glob("decode-*"))


async def _one_handover(tiny_llama: PreparedModel, folder: Path) -> Report:
    """Run one until the decode worker's log tells what became of a chunk."""
    async with WorkerPair(tiny_llama, event_log=folder) as pair:
        task = replace(_task(40), request_id=new_request_id())
        pair.start(task, KvSource.HANDOVER)
        async with asyncio.timeout(20):
            while not _has_chunks(folder):
                await asyncio.sleep(0.02)
        pair.abort(task.request_id)
    return check([folder])


async def test_chunks_of_an_old_generation_are_dropped_and_the_log_says_so(
    tiny_llama: PreparedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _send_old_generations(monkeypatch)
    report = await _one_handover(tiny_llama, tmp_path)
    assert report.violations == []
    assert report.counts["chunk_dropped"] > 0
    assert "chunk_accepted" not in report.counts


async def test_a_receiver_without_its_generation_check_is_found_out(
    tiny_llama: PreparedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _send_old_generations(monkeypatch)

    def careless(self: HandoverReceiver, chunk: Chunk, place: ChunkPlace | None) -> str | None:
        return None if self.state is ReceiverState.RECEIVING else "unknown_transfer"

    monkeypatch.setattr(HandoverReceiver, "_refusal", careless)
    report = await _one_handover(tiny_llama, tmp_path)
    assert {violation.invariant for violation in report.violations} == {"I2"}
    assert "is accepted for block" in report.violations[0].problem
    assert any("allocated" in line for line in report.violations[0].history)


async def test_a_table_that_frees_too_early_is_found_out(
    tiny_llama: PreparedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The block table gives a decoding request's blocks away behind the engine's back."""
    stolen: list[BlockRef] = []

    async with WorkerPair(tiny_llama, event_log=tmp_path) as pair:
        table = pair.decode.engine.table
        honest = BlockTable.commit

        def commit(self: BlockTable, key: object) -> None:
            honest(self, key)  # type: ignore[arg-type]
            if self is table and not stolen:
                refs: Sequence[BlockRef] = self._refs(sorted(self._owned[key]))  # type: ignore[index]
                stolen.extend(refs)
                # As if released: the books of the table itself are left alone, so that the request runs on.
                self._freed.extend(refs)
                self._tell_freed()

        monkeypatch.setattr(BlockTable, "commit", commit)
        await pair.run(_task(40), KvSource.HANDOVER)
    report = check([tmp_path])
    assert {violation.invariant for violation in report.violations} == {"I1", "I3"}
    assert "reads block" in next(v for v in report.violations if v.invariant == "I1").problem
