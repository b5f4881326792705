"""Equality of tiny models: two workers in this process, against the references."""

import asyncio
import tempfile
from pathlib import Path

from benchmarks.equality_cases import Counts, make_task
from benchmarks.equality_reference import EngineReference, TransformersReference
from tandem.core.messages import HandoverDone
from tandem.core.types import GenerationTask, KvSource
from tandem.engine.config import EngineConfig
from tests.fakes.prepared_tiny import prepare_tiny
from tests.fakes.worker_pair import Transport, WorkerPair

LENGTHS = (1, 2, 15, 16, 17, 31, 32, 33, 48, 63, 65, 100, 160)
QUICK_LENGTHS = (1, 16, 33, 65)
_MAX_TOKENS = 24
_BATCH = 6
_ENGINE = EngineConfig(num_blocks=512, max_batched_tokens=32)


def tasks_of(lengths: tuple[int, ...], vocab_size: int) -> list[GenerationTask]:
    """Return one greedy and one sampled request per length; n goes round from 1 to 4."""
    return [
        make_task(
            length,
            vocab_size=vocab_size,
            num_sequences=1 + (index + sampled) % 4,
            sampled=sampled,
            max_tokens=_MAX_TOKENS,
            seed=index,
        )
        for index, length in enumerate(lengths)
        for sampled in (False, True)
    ]


async def compare(architecture: str, transport: Transport, *, quick: bool) -> Counts:
    """Run all cases of one architecture over one transport, half of them alone and half in mixed batches."""
    counts = Counts()
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare_tiny(architecture, Path(folder))
        greedy, sampled = TransformersReference(prepared.folder), EngineReference(prepared, _ENGINE)
        tasks = tasks_of(QUICK_LENGTHS if quick else LENGTHS, prepared.vocab_size)
        expected = [(sampled if t.sampling.temperature else greedy).answer(t) for t in tasks]
        async with WorkerPair(prepared, transports=[transport], engine=_ENGINE) as pair:
            half = len(tasks) // 2
            results = [await pair.run(task, KvSource.HANDOVER) for task in tasks[:half]]
            for start in range(half, len(tasks), _BATCH):
                batch = tasks[start : start + _BATCH]
                results += await asyncio.gather(*(pair.run(task, KvSource.HANDOVER) for task in batch))
        for task, want, result in zip(tasks, expected, results, strict=True):
            got = [()] if result.failures() else result.token_ids()
            counts = counts.add(
                task.request_id, want, got, was_handed_over=any(isinstance(e, HandoverDone) for _, e in result.events)
            )
    return counts
