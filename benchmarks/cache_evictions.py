"""Eviction policies on replayed traces: against plain LRU with the noise of a replay, and against one who knows all.

A replay under load is chaotic: one request that goes elsewhere changes all that follows, and figures of one replay move
by several percent. So the policy that serves and LRU are both replayed on the trace and on copies of it whose requests
arrive up to 10 ms later each (seeded), and compared pair by pair: ratio ± its standard error. ``hits`` of a setting is
"more" or "fewer" when the mean ratio is away from 1 by more than that error, and "equal" otherwise.
"""

import heapq
import math
import random
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.cache_world import TENANT, Trace, TraceRequest, WorldResult, most_reusable
from tandem.prefix_cache.eviction.choice import EvictionName
from tandem.prefix_cache.eviction.policy import BlockValue
from tandem.prefix_cache.keys import BlockKey
from tandem.prefix_cache.tree import CacheTree

JITTER_S = 0.010
NUM_COPIES = 2
Replay = Callable[[Trace, EvictionName], WorldResult]


def jittered(trace: Trace, seed: int) -> Trace:
    """Return the trace with each request up to ``JITTER_S`` later."""
    draw = random.Random(seed)
    late = [replace(request, arrived_s=request.arrived_s + JITTER_S * draw.random()) for request in trace.requests]
    late.sort(key=lambda request: (request.arrived_s, request.number))
    return replace(trace, requests=tuple(late))


def mean_and_error(ratios: Sequence[float]) -> tuple[float, float]:
    """Return the mean of paired ratios and its standard error."""
    return statistics.fmean(ratios), statistics.stdev(ratios) / math.sqrt(len(ratios))


def against_lru(
    trace: Trace, whole: Mapping[EvictionName, WorldResult], run: Replay, ours: EvictionName
) -> dict[str, Any]:
    """Ours and LRU on the trace itself, replayed already (``whole``), and on copies of it."""
    pairs = [(whole[ours], whole[EvictionName.LRU])]
    for seed in range(1, 1 + NUM_COPIES):
        copy = jittered(trace, seed)
        pairs.append((run(copy, ours), run(copy, EvictionName.LRU)))
    hits, hits_error = mean_and_error([own.hit_blocks / lru.hit_blocks for own, lru in pairs])
    p90, p90_error = mean_and_error([own.percentile(0.9) / lru.percentile(0.9) for own, lru in pairs])
    ideal = trace.ideal_hit_blocks()
    missed = statistics.fmean(ideal - own.hit_blocks for own, _ in pairs)
    missed_lru = statistics.fmean(ideal - lru.hit_blocks for _, lru in pairs)
    return {
        "hit_ratio": round(hits, 4),
        "hit_ratio_error": round(hits_error, 4),
        "hits": "more" if hits > 1 + hits_error else "fewer" if hits < 1 - hits_error else "equal",
        "miss_ratio": round(missed / missed_lru, 4),
        "ttft_p90_ratio": round(p90, 4),
        "ttft_p90_ratio_error": round(p90_error, 4),
        "busy_ratio": round(statistics.fmean(sum(own.busy_s) / sum(lru.busy_s) for own, lru in pairs), 4),
        "hit_of_ideal": [round(own.hit_blocks / ideal, 4) for own, _ in pairs],
        "hit_of_ideal_lru": [round(lru.hit_blocks / ideal, 4) for _, lru in pairs],
    }


def _geometric_mean(ratios: Sequence[float]) -> float:
    return round(math.exp(statistics.fmean(math.log(ratio) for ratio in ratios)), 4)


def evictions_summary(rows: Sequence[Mapping[str, Any]], ours: EvictionName) -> dict[str, Any]:
    """All settings together: ratios to LRU are geometric means over the settings."""
    hits = Counter(row["hits"] for row in rows)
    return {
        "policy": ours.value,
        "settings": len(rows),
        "settings_hit_more": hits["more"],
        "settings_hit_equal": hits["equal"],
        "settings_hit_fewer": hits["fewer"],
        "hit_ratio": _geometric_mean([row["hit_ratio"] for row in rows]),
        "miss_ratio": _geometric_mean([row["miss_ratio"] for row in rows]),
        "ttft_p90_ratio": _geometric_mean([row["ttft_p90_ratio"] for row in rows]),
        "busy_ratio": _geometric_mean([row["busy_ratio"] for row in rows]),
    }


class Clairvoyant:
    """Gives up the block that is asked for again last, or never (Belady 1966), the end of a prompt first."""

    def __init__(self, requests: Sequence[TraceRequest]) -> None:
        self.now = 0  # which request is being served
        self._uses: dict[BlockKey, list[int]] = {}
        for index in range(len(requests) - 1, -1, -1):
            for key in requests[index].keys:
                self._uses.setdefault(key, []).append(index)
        self._heap: list[tuple[int, int, BlockKey]] = []
        self._current: dict[BlockKey, int] = {}
        self._num_inserted = 0

    def add(self, key: BlockKey, value: BlockValue) -> None:
        """It knows already."""

    def touch(self, key: BlockKey) -> None:
        """It knew."""

    def release(self, key: BlockKey) -> None:
        """It knew."""

    def insert(self, key: BlockKey, value: BlockValue) -> None:
        """Rank it by its next use."""
        uses = self._uses[key]
        while uses and uses[-1] <= self.now:
            uses.pop()
        self._num_inserted += 1
        self._current[key] = self._num_inserted
        heapq.heappush(self._heap, (-uses[-1] if uses else -(1 << 60), self._num_inserted, key))

    def remove(self, key: BlockKey) -> None:
        """In use."""
        self._current.pop(key, None)

    def forget(self, key: BlockKey) -> None:
        """Gone."""
        self._current.pop(key, None)

    def victim(self) -> BlockKey | None:
        """The one needed last."""
        while self._heap:
            _, number, key = self._heap[0]
            if self._current.get(key) == number:
                return key
            heapq.heappop(self._heap)
        return None


def clairvoyant_hit_blocks(requests: Sequence[TraceRequest], capacity_blocks: int, block_tokens: int) -> int:
    """Blocks that one worker would find if it served these requests in this order and knew what is to come."""
    policy = Clairvoyant(requests)
    tree = CacheTree(lambda: policy)
    value = BlockValue(recompute_s=0.0)
    hits = 0
    for index, request in enumerate(requests):
        policy.now = index
        held = tree.num_held(request.keys)
        hits += min(held, most_reusable(request, block_tokens))
        used = list(request.keys[:held])
        tree.use(used)
        for place in range(held, len(request.keys)):
            if len(tree) >= capacity_blocks:
                victim = tree.victim()
                if victim is None:
                    break
                tree.drop(victim)
            tree.add(TENANT, request.keys[place], request.keys[place - 1] if place else None, value)
            used.append(request.keys[place])
        tree.unuse(used)
    return hits
