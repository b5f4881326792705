"""A prefill pool on virtual time that replays a trace: real index, trees and eviction; only compute is a formula.

Prefill workers compute one prompt at a time, in order of arrival. Each keeps a prefix cache of ``capacity_blocks``;
the router's index hears of every change at once. Time to first token = wait + predicted time of the uncached tokens.
"""

import gzip
import heapq
import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tandem.core.ids import Epoch, Tenant, WorkerId
from tandem.core.latency import LatencyModel
from tandem.core.types import Role
from tandem.prefix_cache.events import Removed, Stored, Tier
from tandem.prefix_cache.eviction.policy import BlockValue, EvictionPolicy
from tandem.prefix_cache.index import CacheHolder, PrefixIndex
from tandem.prefix_cache.keys import BlockKey
from tandem.prefix_cache.tree import CacheTree
from tandem.router.actions import WorkerKey
from tandem.router.placement import CachedPrefix, Demand, Placement, PlacementPolicy, WorkerView, place

TENANT = Tenant("trace")


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One line of a trace."""

    number: int
    arrived_s: float
    num_tokens: int
    keys: tuple[BlockKey, ...]  # of its full blocks


@dataclass(frozen=True, slots=True)
class Trace:
    """A named list of requests in order of arrival."""

    name: str
    block_tokens: int
    requests: tuple[TraceRequest, ...]

    def ideal_hit_blocks(self) -> int:
        """Blocks that an infinite cache shared by all workers would find."""
        seen: set[BlockKey] = set()
        hits = 0
        for request in self.requests:
            run = next((i for i, key in enumerate(request.keys) if key not in seen), len(request.keys))
            hits += min(run, _most_reusable(request, self.block_tokens))
            seen.update(request.keys)
        return hits


def load_trace(path: Path, *, name: str, block_tokens: int, most: int | None = None) -> Trace:
    """Read a trace of {timestamp ms, input_length, hash_ids}; the ids name blocks together with all before them."""
    requests = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            if most is not None and number >= most:
                break
            record = json.loads(line)
            num_full = record["input_length"] // block_tokens
            keys = tuple(BlockKey(block.to_bytes(8, "big")) for block in record["hash_ids"][:num_full])
            requests.append(TraceRequest(number, record["timestamp"] / 1e3, record["input_length"], keys))
    return Trace(name, block_tokens, tuple(sorted(requests, key=lambda request: (request.arrived_s, request.number))))


def _most_reusable(request: TraceRequest, block_tokens: int) -> int:
    """At least one token has to be computed: it brings the first output token."""
    return (request.num_tokens - 1) // block_tokens


@dataclass(slots=True)
class SimWorker:
    """One prefill worker: its queue, its cache, what it did."""

    holder: CacheHolder
    tree: CacheTree
    waiting: deque[TraceRequest] = field(default_factory=deque)
    running: TraceRequest | None = None
    done_s: float = 0.0
    queued_s: float = 0.0  # predicted seconds of work that wait or run
    charges: dict[int, float] = field(default_factory=dict)
    busy_s: float = 0.0
    hit_blocks: int = 0


class Routing(Protocol):
    """Chooses a worker for a request, and says what it predicts for it."""

    def choose(self, request: TraceRequest, world: "PrefillWorld", now_s: float) -> int:
        """Return the worker's index."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldConfig:
    """Size of the pool."""

    num_workers: int
    capacity_blocks: int
    block_tokens: int
    model: LatencyModel
    make_policy: Callable[[], EvictionPolicy]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldResult:
    """What a replay brought."""

    ttft_s: tuple[float, ...]  # sorted
    hit_blocks: int
    busy_s: tuple[float, ...]

    def percentile(self, share: float) -> float:
        """TTFT that ``share`` of the requests stay within."""
        return self.ttft_s[min(int(share * len(self.ttft_s)), len(self.ttft_s) - 1)]

    @property
    def imbalance(self) -> float:
        """Busy time of the busiest worker over the mean."""
        return max(self.busy_s) * len(self.busy_s) / sum(self.busy_s)


class PrefillWorld:
    """Replays one trace under one routing."""

    def __init__(self, config: WorldConfig, routing: Routing) -> None:
        self.config = config
        self.index = PrefixIndex()
        self.workers = [
            SimWorker(CacheHolder(WorkerId(f"prefill-{n}"), Epoch(1)), CacheTree(config.make_policy, tenant_share=1.0))
            for n in range(config.num_workers)
        ]
        self._routing = routing
        self._ends: list[tuple[float, int]] = []
        self._ttft_s: list[float] = []

    def replay(self, trace: Trace) -> WorldResult:
        """Run the whole trace."""
        for request in trace.requests:
            self._run_until(request.arrived_s)
            chosen = self._routing.choose(request, self, request.arrived_s)
            worker = self.workers[chosen]
            charge_s = self.compute_s(request, worker.tree.num_held(request.keys))
            worker.charges[request.number] = charge_s
            worker.queued_s += charge_s
            worker.waiting.append(request)
            if worker.running is None:
                self._start(chosen, request.arrived_s)
        self._run_until(float("inf"))
        return WorldResult(
            ttft_s=tuple(sorted(self._ttft_s)),
            hit_blocks=sum(worker.hit_blocks for worker in self.workers),
            busy_s=tuple(worker.busy_s for worker in self.workers),
        )

    def compute_s(self, request: TraceRequest, num_held_blocks: int) -> float:
        """Predicted prefill time when that many leading blocks are cached."""
        cached = min(num_held_blocks, _most_reusable(request, self.config.block_tokens)) * self.config.block_tokens
        return self.config.model.prefill_s(num_new_tokens=request.num_tokens - cached, num_cached_tokens=cached)

    def left_s(self, index: int, now_s: float) -> float:
        """Predicted seconds until a new request would start on this worker."""
        worker = self.workers[index]
        if worker.running is None:
            return 0.0
        return worker.queued_s - worker.charges[worker.running.number] + max(worker.done_s - now_s, 0.0)

    def _run_until(self, now_s: float) -> None:
        while self._ends and self._ends[0][0] <= now_s:
            end_s, index = heapq.heappop(self._ends)
            self._finish(index)
            if self.workers[index].waiting:
                self._start(index, end_s)

    def _start(self, index: int, now_s: float) -> None:
        worker = self.workers[index]
        request = worker.running = worker.waiting.popleft()
        held = min(worker.tree.num_held(request.keys), _most_reusable(request, self.config.block_tokens))
        worker.hit_blocks += held
        worker.tree.use(request.keys[:held])
        taken_s = self.compute_s(request, held)
        worker.busy_s += taken_s
        worker.done_s = now_s + taken_s
        self._ttft_s.append(worker.done_s - request.arrived_s)
        self._add(worker, request, held)
        heapq.heappush(self._ends, (worker.done_s, index))

    def _add(self, worker: SimWorker, request: TraceRequest, held: int) -> None:
        """Take room for the blocks to be computed; what does not fit beside blocks in use is not cached."""
        block, stored = self.config.block_tokens, []
        for index in range(held, len(request.keys)):
            key = request.keys[index]
            if key in worker.tree:  # only the last one, of which a token had to be computed again
                worker.tree.use([key])
                continue
            if len(worker.tree) >= self.config.capacity_blocks and not self._evict(worker):
                break
            cost_s = self.config.model.prefill_s(num_new_tokens=block, num_cached_tokens=index * block)
            parent = request.keys[index - 1] if index else None
            worker.tree.add(TENANT, key, parent, BlockValue(recompute_s=cost_s))
            stored.append(key)
        self.index.apply(worker.holder, Stored(keys=tuple(stored), tier=Tier.DEVICE))

    def _evict(self, worker: SimWorker) -> bool:
        victim = worker.tree.victim()
        if victim is None:
            return False
        worker.tree.drop(victim)
        self.index.apply(worker.holder, Removed(keys=(victim,), tier=Tier.DEVICE))
        return True

    def _finish(self, index: int) -> None:
        worker = self.workers[index]
        request, worker.running = worker.running, None
        if request is None:
            raise AssertionError("a worker ends what it never began")
        worker.queued_s -= worker.charges.pop(request.number)
        worker.tree.unuse([key for key in request.keys if key in worker.tree])


class RoundRobin:
    """One after another."""

    def __init__(self) -> None:
        self._next = 0

    def choose(self, request: TraceRequest, world: PrefillWorld, now_s: float) -> int:
        """The next one."""
        self._next += 1
        return (self._next - 1) % len(world.workers)


class LeastLoad:
    """The one that is free first."""

    def choose(self, request: TraceRequest, world: PrefillWorld, now_s: float) -> int:
        """Whatever is cached where."""
        return min(range(len(world.workers)), key=lambda index: (world.left_s(index, now_s), index))


class PrefixAffinity:
    """The one that holds most of the prompt; the least loaded among equals."""

    def choose(self, request: TraceRequest, world: PrefillWorld, now_s: float) -> int:
        """Whatever its load."""
        matches = world.index.match(request.keys)

        def order(index: int) -> tuple[int, float, int]:
            match = matches.get(world.workers[index].holder)
            return -(match.num_blocks if match else 0), world.left_s(index, now_s), index

        return min(range(len(world.workers)), key=order)


class TandemPlacement:
    """The router's own placement over its own index; decode workers have room for everything here."""

    def __init__(self, policy: PlacementPolicy) -> None:
        self._policy = policy

    def choose(self, request: TraceRequest, world: PrefillWorld, now_s: float) -> int:
        """Ask ``place``."""
        config, matches = world.config, world.index.match(request.keys)
        cached = {
            _key(holder): CachedPrefix(num_tokens=match.num_blocks * config.block_tokens)
            for holder, match in matches.items()
        }
        demand = Demand(
            num_prompt_tokens=request.num_tokens,
            num_sequences=1,
            growth_tokens=1,
            cached=cached,
            num_waiting=sum(len(worker.charges) for worker in world.workers),
        )
        views = [
            _view(worker.holder, Role.PREFILL, config, world.left_s(index, now_s))
            for index, worker in enumerate(world.workers)
        ]
        decode = _view(_ANY_DECODE, Role.DECODE, config, 0.0)
        choice = place(demand, prefills=views, decodes=[decode], policy=self._policy)
        if not isinstance(choice, Placement) or choice.prefill is None:
            raise AssertionError(f"no prefill worker was chosen: {choice}")
        return next(i for i, worker in enumerate(world.workers) if _key(worker.holder) == choice.prefill)


_ANY_DECODE = CacheHolder(WorkerId("decode-0"), Epoch(1))


def _key(holder: CacheHolder) -> WorkerKey:
    return WorkerKey(worker_id=holder.worker_id, epoch=holder.epoch)


def _view(holder: CacheHolder, role: Role, config: WorldConfig, queued_s: float) -> WorkerView:
    return WorkerView(
        key=_key(holder),
        role=role,
        model=config.model,
        block_size=config.block_tokens,
        total_blocks=1 << 40,
        free_blocks=1 << 40,
        max_sequences=1 << 40,
        num_sequences=0,
        context_tokens=0,
        queued_prefill_s=queued_s,
    )
