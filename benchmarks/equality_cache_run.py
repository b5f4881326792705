"""Are answers with prefix caches on exactly those of a single process without any?

Conversations of three tenants, who all say the same, go turn by turn, three or four at a time, through caches that
evict (pools far smaller than what is said, under each policy), keep quotas and pins, share public prefixes, and send
what they give up to host memory or Redis, from where it comes back (``promoted_blocks``). Tiny
models of nine architectures run as a prefill and a decode worker in one process; real processes (router, two prefill
and two decode workers, keys per tenant) run a tiny model and SmolLM2. The expected answers are those of one engine
without a cache (whose own answers `benchmarks.equality` compares with `transformers`). float32 on the CPU, greedy and
sampled, n from 1 to 3, hand-over and local prefill.

``foreign`` counts requests that found more cached than their own tenant's earlier requests, or a public prefix, can
have left. ``evicted_blocks``, ``cached_tokens`` and ``skipped_blocks`` (not handed over, because the decode worker had
them) show that caches were at work; evictions are counted in the in-process groups.

Power: the same run with faults planted into the cache of this process (names without the tenant, without what stands
before a block, without its last token; a block lent in another's place; wrong bytes out of a slower tier).
``planted_found`` of ``planted`` were noticed: by wrong tokens, by too much found, or by workers who refused a hand-over
because the names of the blocks to skip differed (``refused``: never without such a fault).

One case is one request with all its sequences. Run: ``python -m benchmarks.equality --cache --json``.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import equality_cache, equality_cache_real
from benchmarks.cluster import prepare_builtin
from benchmarks.equality_cache import SETTINGS, CacheCounts, Setting
from benchmarks.equality_cache_faults import Planted, planted
from benchmarks.equality_cache_script import Script, make_script
from benchmarks.equality_reference import EngineReference
from benchmarks.report import say
from tandem.core.prepared_model import PreparedModel
from tandem.engine.config import EngineConfig
from tests.fakes.prepared_tiny import prepare_tiny
from tests.fakes.tiny_models import ARCHITECTURES

METHOD = __doc__ or ""
_REFERENCE = EngineConfig(num_blocks=512, max_batched_tokens=32)
_SEED = 1
_QUICK_ARCHITECTURES = ("gemma2",)
_QUICK_SETTINGS = ("quotas and pins", "public prefixes", "redis tier")


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheGroup:
    """Result of one model under one setting."""

    model: str
    setting: str
    processes: str  # "one" or "real"
    found: CacheCounts


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheRun:
    """Everything one run showed."""

    groups: tuple[CacheGroup, ...]
    noticed: dict[str, bool]  # by planted fault


async def run(*, quick: bool) -> CacheRun:
    """Run all groups and planted faults. ``quick``: one architecture, three settings, no real processes."""
    groups: list[CacheGroup] = []
    async for group in _in_process(quick=quick):
        say(f"{group}")
        groups.append(group)
    if not quick:
        async for group in _in_real_processes():
            say(f"{group}")
            groups.append(group)
    return CacheRun(groups=tuple(groups), noticed=await power())


async def power() -> dict[str, bool]:
    """Plant each fault and say whether the run notices it."""
    noticed: dict[str, bool] = {}
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare_tiny("llama", Path(folder))
        script = script_of(prepared, _SEED)
        for fault in Planted:
            setting = next(s for s in SETTINGS if s.with_tiers is (fault is Planted.TIER))
            with planted(fault):
                found = await equality_cache.compare(prepared, script, setting)
            mismatches = found.counts.mismatches
            noticed[fault.value] = mismatches + found.foreign + found.refused > 0
            say(f"planted: {fault.value}: {mismatches} mismatches, {found.foreign} foreign, {found.refused} refused")
    return noticed


def script_of(prepared: PreparedModel, seed: int) -> Script:
    """Return the conversations of a seed, with the answers of one process without a cache."""
    return make_script(seed=seed, vocab_size=prepared.vocab_size, answer=EngineReference(prepared, _REFERENCE).answer)


async def _in_process(*, quick: bool) -> AsyncIterator[CacheGroup]:
    settings: Sequence[Setting] = [s for s in SETTINGS if s.name in _QUICK_SETTINGS] if quick else SETTINGS
    for architecture in _QUICK_ARCHITECTURES if quick else ARCHITECTURES:
        with tempfile.TemporaryDirectory() as folder:
            prepared = prepare_tiny(architecture, Path(folder))
            script = script_of(prepared, _SEED)
            for setting in settings:
                found = await equality_cache.compare(prepared, script, setting)
                yield CacheGroup(model=f"tiny {architecture}", setting=setting.name, processes="one", found=found)


async def _in_real_processes() -> AsyncIterator[CacheGroup]:
    with tempfile.TemporaryDirectory() as folder:
        tiny = await asyncio.to_thread(prepare_tiny, "llama", Path(folder))
        script = await asyncio.to_thread(script_of, tiny, 3)
        tiers: dict[str, Any] = {"host": {"memory_bytes": 1 << 20}, "redis": {"enabled": True}}
        for name, num_blocks, cache in (("roomy", 256, {}), ("evictions", 40, {}), ("tiers", 40, tiers)):
            found = await equality_cache_real.compare(tiny, script, num_blocks=num_blocks, cache=cache)
            yield CacheGroup(model="tiny llama", setting=name, processes="real", found=found)
    smol = await asyncio.to_thread(prepare_builtin)
    script = await asyncio.to_thread(script_of, smol, 4)
    slower: dict[str, Any] = {"host": {"memory_bytes": 32 << 20}, "redis": {"enabled": True, "timeout_s": 0.2}}
    settings: tuple[tuple[str, dict[str, Any]], ...] = (("evictions", {"host": {"enabled": False}}), ("tiers", slower))
    for name, cache in settings:
        found = await equality_cache_real.compare(smol, script, num_blocks=64, cache=cache, workers=1)
        yield CacheGroup(model="smollm2-135m-instruct", setting=name, processes="real", found=found)


def summarise(found: CacheRun) -> dict[str, Any]:
    """Return the numbers that count."""
    counts = [group.found for group in found.groups]
    return {
        "cases": sum(c.counts.cases for c in counts),
        "mismatches": sum(c.counts.mismatches for c in counts),
        "foreign": sum(c.foreign for c in counts),
        "refused": sum(c.refused for c in counts),
        "handed_over": sum(c.counts.handed_over for c in counts),
        "cached_tokens": sum(c.cached_tokens for c in counts),
        "prompt_tokens": sum(c.prompt_tokens for c in counts),
        "skipped_blocks": sum(c.skipped_blocks for c in counts),
        "evicted_blocks": sum(c.evicted_blocks for c in counts),
        "promoted_blocks": sum(c.promoted_blocks for c in counts),
        "planted": len(found.noticed),
        "planted_found": sum(found.noticed.values()),
    }


def details_of(found: CacheRun) -> dict[str, Any]:
    """Return everything, for the saved result."""
    return {"groups": [asdict(group) for group in found.groups], "noticed": found.noticed}
