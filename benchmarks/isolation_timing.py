"""Does time to first token tell a tenant what another asked? And does another's flood empty its cache? A real cluster.

Router, two prefill workers and a decode worker as real processes with the tagged engine, whose pretended computing
costs a fixed time per prompt token, so that a cached prompt shows.
"""

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.report import say
from tandem.chaos.cluster import ChaosCluster, ChaosOptions
from tandem.chaos.tagged.settings import TaggedCost
from tandem.client import AsyncClient
from tandem.core.inference import OutputDelta, StreamCompleted

OWNER, OTHER = "a", "b"
_PROMPT_TOKENS = 129
_COST = TaggedCost(prefill_token_s=0.0003, step_s=0.001)
_FLOOD = 8
_NUM_OWN = 4


@dataclass(slots=True, kw_only=True)
class Timings:
    """Times to first token, in seconds, by what had been asked before."""

    never_asked: list[float] = field(default_factory=list)  # by nobody
    asked_by_other: list[float] = field(default_factory=list)  # by the other tenant, just before
    asked_by_oneself: list[float] = field(default_factory=list)
    foreign_tokens: int = 0  # cached tokens in answers to prompts that only the other had asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Two-sample Kolmogorov-Smirnov: the largest distance of the distributions, and how likely chance alone is."""

    distance: float
    p_value: float


def compare(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Compare two samples; the p-value is the asymptotic one with Stephens' correction."""
    values = sorted({*first, *second})
    a, b = sorted(first), sorted(second)
    distance, i, j = 0.0, 0, 0
    for value in values:
        while i < len(a) and a[i] <= value:
            i += 1
        while j < len(b) and b[j] <= value:
            j += 1
        distance = max(distance, abs(i / len(a) - j / len(b)))
    root = math.sqrt(len(a) * len(b) / (len(a) + len(b)))
    return Difference(distance=distance, p_value=_tail((root + 0.12 + 0.11 / root) * distance))


def _tail(x: float) -> float:
    """Probability that the Kolmogorov distribution exceeds ``x``."""
    if x < 0.2:
        return 1.0  # the series converges slowly here, and this is right to twelve digits
    terms = ((1.0 if k % 2 else -1.0) * math.exp(-2.0 * k * k * x * x) for k in range(1, 101))
    return min(max(2.0 * sum(terms), 0.0), 1.0)


async def measure(num_prompts: int, num_rounds: int, *, num_prefill: int = 2) -> dict[str, Any]:
    """Return the figures of timing and flood."""
    options = ChaosOptions(
        num_prefill=num_prefill,
        num_decode=1,
        tenants=(OWNER, OTHER),
        cost=_COST,
        engine={"num_blocks": 160},
        router={"placement": {"mode": "split" if num_prefill else "aggregated"}},
        event_log=False,
    )
    async with ChaosCluster(options) as cluster:
        owner, other = cluster.client(OWNER), cluster.client(OTHER)
        timings = await _times(owner, other, num_prompts, random.Random(1))
        say(f"timed {num_prompts} prompts")
        alone = await _hit_rate(owner, other, num_rounds, 0, random.Random(2))
        flooded = await _hit_rate(owner, other, num_rounds, _FLOOD, random.Random(3))
        mismatches = len(cluster.mismatches())
    apart = compare(timings.asked_by_other, timings.never_asked)
    control = compare(timings.asked_by_oneself, timings.never_asked)
    return {
        "ttft_samples": num_prompts,
        "ttft_ks_distance": round(apart.distance, 4),
        "ttft_ks_p": round(apart.p_value, 4),
        "ttft_own_ks_distance": round(control.distance, 4),
        "ttft_own_ks_p": control.p_value,
        "foreign_cached_tokens": timings.foreign_tokens,
        "cluster_hit_rate_alone": round(alone, 4),
        "cluster_hit_rate_flooded": round(flooded, 4),
        "cluster_flood_points_lost": round(100 * (alone - flooded), 2),
        "kv_mismatches": mismatches,
    }


async def _times(owner: AsyncClient, other: AsyncClient, num_prompts: int, draw: random.Random) -> Timings:
    timings = Timings()
    for _ in range(num_prompts):
        asked, fresh = _prompt(draw), _prompt(draw)
        await _ask(owner, asked)
        for is_asked in draw.sample((True, False), 2):  # neither kind always comes first
            answer = await _ask(other, asked if is_asked else fresh)
            (timings.asked_by_other if is_asked else timings.never_asked).append(answer.ttft_s)
            timings.foreign_tokens += answer.cached_tokens
        timings.asked_by_oneself.append((await _ask(owner, asked)).ttft_s)
    return timings


async def _hit_rate(flooder: AsyncClient, victim: AsyncClient, rounds: int, flood: int, draw: random.Random) -> float:
    """Share of the victim's prompt tokens that were cached, from its second round on."""
    prompts = [_prompt(draw) for _ in range(_NUM_OWN)]
    hits = asked = 0
    for number in range(rounds):
        for prompt in prompts:
            answer = await _ask(victim, prompt)
            if number:
                hits += answer.cached_tokens
                asked += len(prompt)
            for _ in range(flood):
                await _ask(flooder, _prompt(draw))
    return hits / asked


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    ttft_s: float
    cached_tokens: int


async def _ask(client: AsyncClient, prompt: Sequence[int]) -> _Answer:
    began_s, ttft_s, cached = time.monotonic(), None, 0
    async with client.stream(token_ids=prompt, max_tokens=2, ignore_eos=True, temperature=0.0) as stream:
        async for event in stream:
            if isinstance(event, OutputDelta) and ttft_s is None:
                ttft_s = time.monotonic() - began_s
            elif isinstance(event, StreamCompleted):
                cached = event.usage.cached_tokens
    if ttft_s is None:
        raise RuntimeError("a stream ended without a token")
    return _Answer(ttft_s=ttft_s, cached_tokens=cached)


def _prompt(draw: random.Random) -> tuple[int, ...]:
    return tuple(draw.randrange(4, 314) for _ in range(_PROMPT_TOKENS))
