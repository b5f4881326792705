"""A prefill pool on virtual time that replays a trace: real index, trees and eviction; only compute is a formula.

Prefill workers compute one prompt at a time, in the order in which the router gave them. Each keeps a prefix cache of
``capacity_blocks``; the router's index hears of every change at once. Time to first token = wait, in the router's queue
and at the worker, + predicted time of the uncached tokens. How a router gives requests out is in ``cache_router``.
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
from tandem.prefix_cache.events import Removed, Stored, Tier
from tandem.prefix_cache.eviction.policy import BlockValue, EvictionPolicy
from tandem.prefix_cache.index import CacheHolder, PrefixIndex
from tandem.prefix_cache.keys import BlockKey
from tandem.prefix_cache.tree import CacheTree
from tandem.router.actions import WorkerKey

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
            hits += min(run, most_reusable(request, self.block_tokens))
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


def most_reusable(request: TraceRequest, block_tokens: int) -> int:
    """At least one token has to be computed: it brings the first output token."""
    return (request.num_tokens - 1) // block_tokens


@dataclass(slots=True)
class SimWorker:
    """One prefill worker: its queue, its cache, what it did."""

    holder: CacheHolder
    key: WorkerKey  # the same, as placement names it
    tree: CacheTree
    waiting: deque[TraceRequest] = field(default_factory=deque)
    running: TraceRequest | None = None
    done_s: float = 0.0
    queued_s: float = 0.0  # predicted seconds of work that wait or run
    charges: dict[int, float] = field(default_factory=dict)
    busy_s: float = 0.0
    hit_blocks: int = 0
    served: list[TraceRequest] = field(default_factory=list)


class WorldRouter(Protocol):
    """Gives requests to workers. It is told of all that happens, and asks with ``wakes_s`` to be told of nothing."""

    def arrives(self, request: TraceRequest, world: "PrefillWorld", now_s: float) -> None:
        """A request came."""
        ...

    def looks(self, world: "PrefillWorld", now_s: float) -> None:
        """A worker ended a prompt, or the time has come that ``wakes_s`` named."""
        ...

    def wakes_s(self, world: "PrefillWorld") -> float:
        """When it wants to look again though nothing happens; infinite = never."""
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
    served: tuple[tuple[TraceRequest, ...], ...] = ()  # by each worker, in its order

    def percentile(self, share: float) -> float:
        """TTFT that ``share`` of the requests stay within."""
        return self.ttft_s[min(int(share * len(self.ttft_s)), len(self.ttft_s) - 1)]

    @property
    def imbalance(self) -> float:
        """Busy time of the busiest worker over the mean."""
        return max(self.busy_s) * len(self.busy_s) / sum(self.busy_s)


class PrefillWorld:
    """Replays one trace under one router."""

    def __init__(self, config: WorldConfig, router: WorldRouter) -> None:
        self.config = config
        self.index = PrefixIndex()
        self.workers = [self._new_worker(WorkerId(f"prefill-{n}")) for n in range(config.num_workers)]
        self._router = router
        self._ends: list[tuple[float, int]] = []
        self._ttft_s: list[float] = []

    def replay(self, trace: Trace) -> WorldResult:
        """Run the whole trace."""
        for request in trace.requests:
            self._run_until(request.arrived_s)
            self._router.arrives(request, self, request.arrived_s)
        self._run_until(float("inf"))
        return WorldResult(
            ttft_s=tuple(sorted(self._ttft_s)),
            hit_blocks=sum(worker.hit_blocks for worker in self.workers),
            busy_s=tuple(worker.busy_s for worker in self.workers),
            served=tuple(tuple(worker.served) for worker in self.workers),
        )

    def give(self, index: int, request: TraceRequest, now_s: float) -> None:
        """A worker gets a request, behind those it has."""
        worker = self.workers[index]
        charge_s = self.compute_s(request, worker.tree.num_held(request.keys))
        worker.charges[request.number] = charge_s
        worker.queued_s += charge_s
        worker.waiting.append(request)
        if worker.running is None:
            self._start(index, now_s)

    def compute_s(self, request: TraceRequest, num_held_blocks: int) -> float:
        """Predicted prefill time when that many leading blocks are cached."""
        cached = min(num_held_blocks, most_reusable(request, self.config.block_tokens)) * self.config.block_tokens
        return self.config.model.prefill_s(num_new_tokens=request.num_tokens - cached, num_cached_tokens=cached)

    def left_s(self, index: int, now_s: float) -> float:
        """Predicted seconds until a new request would start on this worker."""
        worker = self.workers[index]
        if worker.running is None:
            return 0.0
        return worker.queued_s - worker.charges[worker.running.number] + max(worker.done_s - now_s, 0.0)

    def _new_worker(self, worker_id: WorkerId) -> SimWorker:
        epoch = Epoch(1)
        return SimWorker(
            holder=CacheHolder(worker_id, epoch),
            key=WorkerKey(worker_id=worker_id, epoch=epoch),
            tree=CacheTree(self.config.make_policy),
        )

    def _run_until(self, now_s: float) -> None:
        while True:
            end_s = self._ends[0][0] if self._ends else float("inf")
            at_s = min(end_s, self._router.wakes_s(self))
            if at_s == float("inf") or at_s > now_s:
                return
            if at_s == end_s:
                _, index = heapq.heappop(self._ends)
                self._finish(index)
                if self.workers[index].waiting:
                    self._start(index, end_s)
            self._router.looks(self, at_s)

    def _start(self, index: int, now_s: float) -> None:
        worker = self.workers[index]
        request = worker.running = worker.waiting.popleft()
        worker.served.append(request)
        held = min(worker.tree.num_held(request.keys), most_reusable(request, self.config.block_tokens))
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
            worker.tree.add(TENANT, key, parent, BlockValue(recompute_s=cost_s, num_blocks_before=index))
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
