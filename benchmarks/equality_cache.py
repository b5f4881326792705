"""Equality with caches on, in one process: tiny models as a prefill and a decode worker, each with a prefix cache.

Each setting makes another thing happen to cached blocks: nothing, evictions under each policy, quotas and pins, public
prefixes, and ways to slower tiers and back. What a request finds cached is watched too: never more than its own tenant,
or the operator, put there.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.equality_cache_script import BLOCK, TENANTS, Case, Script, Witness, batches, pinned
from benchmarks.equality_cache_tiers import tiers_behind
from benchmarks.equality_cases import Counts
from tandem.core.ids import Epoch
from tandem.core.messages import HandoverDone, PrefillDone
from tandem.core.prepared_model import PreparedModel
from tandem.core.reasons import KV_PREFIX
from tandem.engine.config import EngineConfig
from tandem.engine.kv.block_cache import CacheSetup
from tandem.prefix_cache.config import PrefixCacheConfig, PublicPrefixSection
from tandem.prefix_cache.eviction.choice import EvictionName
from tests.fakes.worker_pair import Result, Transport, WorkerPair

_SECRET = b"secret of the equality runs"
_CONCURRENCY = 3
_MAX_TRIES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One configuration of the caches."""

    name: str
    num_blocks: int  # of each worker
    cache: dict[str, Any] = field(default_factory=dict)
    with_pins: bool = False
    with_public: bool = False
    with_tiers: bool = False
    with_redis: bool = False
    transport: Transport = "shm"


SETTINGS = (
    Setting(name="roomy", num_blocks=256),
    *(Setting(name=f"evictions {name}", num_blocks=48, cache={"eviction": name}) for name in EvictionName),
    Setting(
        name="quotas and pins",
        num_blocks=64,
        cache={"tenant_weights": {"a": 0.25, "c": 4.0}},
        with_pins=True,
        transport="tcp",
    ),
    Setting(name="public prefixes", num_blocks=64, with_public=True),
    Setting(name="host tier", num_blocks=48, with_tiers=True, cache={"host": {"memory_bytes": 8 << 20}}),
    Setting(
        name="redis tier",
        num_blocks=48,
        with_tiers=True,
        with_redis=True,
        cache={"host": {"enabled": False}, "redis": {"enabled": True, "timeout_s": 0.5}},  # patient: a busy machine
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheCounts:
    """What one group showed, and the proof that caches were at work."""

    counts: Counts = field(default_factory=Counts)
    foreign: int = 0  # requests that found more than their tenant can have left there
    refused: int = 0  # hand-overs that a worker refused, because what was to be skipped has other names at the other
    prompt_tokens: int = 0
    cached_tokens: int = 0
    skipped_blocks: int = 0  # not handed over: the decode worker had them
    evicted_blocks: int = 0
    promoted_blocks: int = 0  # came back from a slower tier
    tried_again: int = 0


async def compare(prepared: PreparedModel, script: Script, setting: Setting) -> CacheCounts:
    """Run all cases of the script on a new pair of workers."""
    public = script.shared if setting.with_public else ()
    witness = Witness(public)
    engine = EngineConfig(num_blocks=setting.num_blocks, block_size=BLOCK, max_batched_tokens=32)
    found = CacheCounts()
    caches = (_setup(setting, public, 1), _setup(setting, public, 2))
    async with contextlib.AsyncExitStack() as stack:
        tiers = stack.enter_context(tiers_behind(with_redis=setting.with_redis)) if setting.with_tiers else None
        pair = await stack.enter_async_context(
            WorkerPair(
                prepared,
                transports=[setting.transport],
                engine=engine,
                caches=caches,
                attach_tiers=None if tiers is None else tiers.attach,
            )
        )
        for batch in batches([pinned(c) if setting.with_pins else c for c in script.cases], _CONCURRENCY):
            for case in batch:
                witness.runs(case)
            results = await asyncio.gather(*(pair.run(case.task, case.source) for case in batch))
            for case, first in zip(batch, results, strict=True):
                result, most = first, witness.most_cached(case)
                for _ in range(_MAX_TRIES - 1):
                    if not result.failures():
                        break
                    # A pool this small may have no room at that moment; a router would place the request again.
                    refused = any(failure.reason == KV_PREFIX for failure in result.failures())
                    found = replace(found, tried_again=found.tried_again + 1, refused=found.refused + refused)
                    most = len(case.task.prompt_token_ids)
                    await pair.settle()
                    result = await pair.run(case.task, case.source)
                found = _add(found, case, result, most)
        caches_used = [worker.engine.cache for worker in (pair.prefill, pair.decode)]
        evicted = sum(cache.stats().num_evicted for cache in caches_used if cache is not None)
    promoted = 0 if tiers is None else tiers.promoted().total()
    return replace(found, evicted_blocks=evicted, promoted_blocks=promoted)


def _setup(setting: Setting, public: Sequence[int], number: int) -> CacheSetup:
    prefixes = (PublicPrefixSection(token_ids=tuple(public)),) if public else ()
    settings = PrefixCacheConfig(public_prefixes=prefixes, **setting.cache)
    return CacheSetup(settings=settings, secret=_SECRET, epoch=Epoch(number))


def _add(found: CacheCounts, case: Case, result: Result, most_cached: int) -> CacheCounts:
    got = [()] if result.failures() else result.token_ids()
    done = [event for _, event in result.events if isinstance(event, HandoverDone)]
    cached = max((e.num_cached_tokens for _, e in result.events if isinstance(e, PrefillDone)), default=0)
    skipped = max((event.num_skipped_blocks for event in done), default=0)
    return replace(
        found,
        counts=found.counts.add(case.task.request_id, case.expected, got, was_handed_over=bool(done)),
        foreign=found.foreign + (max(cached, BLOCK * skipped) > most_cached),
        prompt_tokens=found.prompt_tokens + len(case.task.prompt_token_ids),
        cached_tokens=found.cached_tokens + cached,
        skipped_blocks=found.skipped_blocks + skipped,
    )


__all__ = ["SETTINGS", "TENANTS", "CacheCounts", "Setting", "compare"]
