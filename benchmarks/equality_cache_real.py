"""Equality with caches on, in real processes: router, two prefill and two decode workers, asked through the SDK."""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from benchmarks.cluster import cluster_config, running_cluster
from benchmarks.equality_cache import CacheCounts
from benchmarks.equality_cache_script import BLOCK, TENANTS, Case, Script, Witness, batches
from benchmarks.equality_real import ask
from tandem.client import AsyncClient, Generation
from tandem.core.prepared_model import PreparedModel
from tandem.rpc.keys import issue_key

_CONCURRENCY = 4
_BIG = 1 << 20


async def compare(
    prepared: PreparedModel, script: Script, *, num_blocks: int, cache: Mapping[str, Any], workers: int = 2
) -> CacheCounts:
    """Run all cases of the script on a new cluster of ``workers`` workers of each kind."""
    keys = {tenant: issue_key(f"k{index}", tenant) for index, tenant in enumerate(TENANTS)}
    config = cluster_config(
        router={"keys": [key.entry.model_dump() for key in keys.values()]},
        engine={"num_blocks": num_blocks, "block_size": BLOCK, "max_batched_tokens": 64, "kv_memory_bytes": None},
        pools={"prefill": {"replicas": workers}, "decode": {"replicas": workers}},
        prefix_cache=dict(cache),
    )
    witness, found = Witness(), CacheCounts()
    async with contextlib.AsyncExitStack() as stack:
        address = await stack.enter_async_context(running_cluster(config, prepared))
        clients = {
            tenant: await stack.enter_async_context(AsyncClient(address, api_key=key.text, timeout_s=300.0))
            for tenant, key in keys.items()
        }
        await next(iter(clients.values())).wait_until_ready(60.0)
        for batch in batches(script.cases, _CONCURRENCY):
            for case in batch:
                witness.runs(case)
            answers = await asyncio.gather(*(ask(clients[case.task.tenant], case.task) for case in batch))
            for case, answer in zip(batch, answers, strict=True):
                found = _add(found, case, answer, _BIG if answer.attempts > 1 else witness.most_cached(case))
    return found


def _add(found: CacheCounts, case: Case, answer: Generation, most_cached: int) -> CacheCounts:
    got = [sequence.token_ids for sequence in answer.sequences]
    timings, cached = answer.timings, answer.usage.cached_tokens
    return replace(
        found,
        counts=found.counts.add(
            case.task.request_id, case.expected, got, was_handed_over=timings.handover_ms is not None
        ),
        foreign=found.foreign + (cached > most_cached),
        prompt_tokens=found.prompt_tokens + answer.usage.prompt_tokens,
        cached_tokens=found.cached_tokens + cached,
        tried_again=found.tried_again + (answer.attempts > 1),
    )
