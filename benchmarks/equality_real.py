"""Equality of the real model: router, prefill worker and decode worker as real processes, asked through the SDK."""

import asyncio
from dataclasses import replace
from pathlib import Path

from benchmarks.cluster import cluster_config, prepare_builtin, running_cluster
from benchmarks.equality_cases import Answer, Counts, make_task
from benchmarks.equality_reference import EngineReference, TransformersReference
from tandem.client import AsyncClient, Generation
from tandem.core.prepared_model import PreparedModel
from tandem.core.types import GenerationTask
from tandem.engine.config import EngineConfig
from tandem.text.tokenizer import Tokenizer
from tests.fakes.worker_pair import Transport

LENGTHS = (1, 15, 16, 17, 100, 257, 511, 512, 513)
_MAX_TOKENS = 16
_TEXT = Path(__file__).parents[1] / "LICENSE"  # long English text that every clone has


class RealModel:
    """The requests and their expected answers, computed once for all transports."""

    def __init__(self) -> None:
        self.prepared: PreparedModel = prepare_builtin()
        self.tasks = _tasks(self.prepared)
        greedy = TransformersReference(self.prepared.folder)
        sampled = EngineReference(self.prepared, EngineConfig(num_blocks=256))
        self.expected: list[Answer] = [(sampled if t.sampling.temperature else greedy).answer(t) for t in self.tasks]


async def compare(real: RealModel, transport: Transport) -> Counts:
    """Ask everything over one transport: the first half one by one, the rest three at a time."""
    config = cluster_config(router={"placement": {"mode": "split"}}, transfer={"transports": [transport]})
    counts = Counts()
    async with running_cluster(config, real.prepared) as address, AsyncClient(address, timeout_s=300.0) as client:
        await client.wait_until_ready(60.0)
        half = len(real.tasks) // 2
        answers = [await ask(client, task) for task in real.tasks[:half]]
        for start in range(half, len(real.tasks), 3):
            answers += await asyncio.gather(*(ask(client, task) for task in real.tasks[start : start + 3]))
    for task, want, answer in zip(real.tasks, real.expected, answers, strict=True):
        got = [sequence.token_ids for sequence in answer.sequences]
        handed_over = answer.timings.handover_ms is not None
        counts = counts.add(f"{transport} {task.request_id}", want, got, was_handed_over=handed_over)
    return counts


def _tasks(prepared: PreparedModel) -> list[GenerationTask]:
    tokens = Tokenizer.load(prepared.folder).encode(_TEXT.read_text(encoding="utf-8"))
    tasks = []
    for index, length in enumerate(LENGTHS):
        for sampled in (False, True):
            task = make_task(
                length,
                vocab_size=prepared.vocab_size,
                num_sequences=1 + (index + sampled) % 4,
                sampled=sampled,
                max_tokens=_MAX_TOKENS,
                seed=index,
            )
            start = 37 * index
            tasks.append(replace(task, prompt_token_ids=tuple(tokens[start : start + length])))
    return tasks


async def ask(client: AsyncClient, task: GenerationTask) -> Generation:
    """Ask for exactly what the task says."""
    sampling = task.sampling
    return await client.generate(
        token_ids=task.prompt_token_ids,
        n=task.num_sequences,
        max_tokens=task.stop.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        seed=sampling.seed,
    )
