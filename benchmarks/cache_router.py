"""How a replayed router gives requests to workers: at their arrival, or from a queue as the serving router does.

``InQueue`` is the serving router's way with its own parts: the central queue, placement with a bounded look-ahead, the
overtaking of a head that waits for one worker, and the prefixes that are expected where they were sent. A request is
bound to a worker when that has credit, so what is known of the caches is what the request will find there. Admission
refuses nobody: every replayed request is served, under each routing alike. Of equal workers the name decides, not
chance, so that a replay can be repeated.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from benchmarks.cache_world import TENANT, PrefillWorld, TraceRequest, WorldConfig
from tandem.core.ids import Epoch, RequestId, WorkerId
from tandem.core.types import PriorityClass, Role
from tandem.router.actions import WorkerKey
from tandem.router.cache.config import CacheSection
from tandem.router.cache.expected import ExpectedPrefixes
from tandem.router.live import OvertakingPolicy
from tandem.router.overtaking import LOOK_EVERY_S, Overtaking
from tandem.router.placement import CachedPrefix, Demand, NoCapacity, Placement, PlacementPolicy, WorkerView, place
from tandem.router.placer import Chosen
from tandem.router.queue import CentralQueue, QueueBounds, QueueEntry

_NEVER_S = float("inf")
_JUST_AFTER_S = 1e-6


class Routing(Protocol):
    """Chooses a worker for a request that has just come."""

    def choose(self, request: TraceRequest, world: PrefillWorld, now_s: float) -> int:
        """Return the worker's index."""
        ...


class AtArrival:
    """Every request goes to its worker when it comes, and waits there."""

    def __init__(self, routing: Routing) -> None:
        self._routing = routing

    def arrives(self, request: TraceRequest, world: PrefillWorld, now_s: float) -> None:
        """Choose at once."""
        world.give(self._routing.choose(request, world, now_s), request, now_s)

    def looks(self, world: PrefillWorld, now_s: float) -> None:
        """Nothing waits here."""

    def wakes_s(self, world: PrefillWorld) -> float:
        """Never."""
        return _NEVER_S


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


@dataclass(frozen=True, slots=True)
class _Waiting:
    """One request in the queue, and where it will run."""

    request: TraceRequest
    world: PrefillWorld


class _Chooser:
    """Asks ``place`` as the serving router does; decode workers have room for everything here."""

    def __init__(self, policy: PlacementPolicy) -> None:
        section = CacheSection()
        self._policy = policy
        self._expected = ExpectedPrefixes(max_blocks=section.max_expected_blocks, expect_s=section.expect_s)

    def choose(
        self, live: _Waiting, now_s: float, *, num_waiting: int, ahead_s: Mapping[WorkerKey, float]
    ) -> Chosen | NoCapacity:
        """Where ``live`` would go now."""
        request, world = live.request, live.world
        demand = Demand(
            num_prompt_tokens=request.num_tokens,
            num_sequences=1,
            growth_tokens=1,
            cached=self._cached(request, world, now_s),
            num_waiting=num_waiting,
        )
        views = [
            _view(worker.key, Role.PREFILL, world.config, world.left_s(index, now_s) + ahead_s.get(worker.key, 0.0))
            for index, worker in enumerate(world.workers)
        ]
        decode = _view(_ANY_DECODE, Role.DECODE, world.config, 0.0)
        choice = place(demand, prefills=views, decodes=[decode], policy=self._policy)
        return Chosen(demand=demand, placement=choice) if isinstance(choice, Placement) else choice

    def expect(self, worker: WorkerKey, request: TraceRequest, now_s: float) -> None:
        """A request goes to ``worker``."""
        self._expected.expect(worker, request.keys, now_s)

    def _cached(self, request: TraceRequest, world: PrefillWorld, now_s: float) -> dict[WorkerKey, CachedPrefix]:
        matches = world.index.match(request.keys)
        cached = {}
        for worker in world.workers:
            match = matches.get(worker.holder)
            num_soon = self._expected.num_expected(worker.key, request.keys, now_s)
            num_blocks = max(num_soon, match.num_blocks if match else 0)
            if num_blocks:
                cached[worker.key] = CachedPrefix(num_tokens=num_blocks * world.config.block_tokens)
        return cached


class InQueue:
    """The serving router's way: requests wait centrally, and placement chooses when a worker has credit."""

    def __init__(self, placement: PlacementPolicy, overtaking: OvertakingPolicy) -> None:
        self._look_ahead_s = placement.look_ahead_s
        self._chooser = _Chooser(placement)
        self._queue = CentralQueue(QueueBounds())
        self._lives: dict[RequestId, _Waiting] = {}
        self._overtaking = Overtaking(queue=self._queue, placer=self._chooser, lives=self._lives, policy=overtaking)
        self._asked_s = self._others_asked_s = float("-inf")
        self._retry_s = _NEVER_S

    def arrives(self, request: TraceRequest, world: PrefillWorld, now_s: float) -> None:
        """It waits as the last of its tenant's line."""
        entry = QueueEntry(
            request_id=RequestId(str(request.number)),
            tenant=TENANT,
            priority=PriorityClass.STANDARD,
            cost_tokens=float(request.num_tokens),
            work_s=world.compute_s(request, 0),
            deadline_s=None,
            arrived_s=request.arrived_s,
        )
        self._lives[entry.request_id] = _Waiting(request, world)
        self._queue.push(entry)
        self.looks(world, now_s)

    def looks(self, world: PrefillWorld, now_s: float) -> None:
        """Place the head while it can be; then those who may pass it."""
        self._asked_s, self._retry_s = now_s, _NEVER_S
        while self._has_credit(world, now_s) and (entry := self._queue.peek()) is not None:
            choice = self._chooser.choose(
                self._lives[entry.request_id], now_s, num_waiting=len(self._queue) - 1, ahead_s={}
            )
            if isinstance(choice, NoCapacity):
                self._let_pass(entry, choice, now_s)
                return
            self._give(entry, choice, now_s)

    def wakes_s(self, world: PrefillWorld) -> float:
        """When the next busy worker gets credit, or when others may be looked at again."""
        if not len(self._queue):
            return _NEVER_S
        since_s, credit_s = self._asked_s, self._look_ahead_s - _JUST_AFTER_S
        credits_s = [since_s + world.left_s(n, since_s) - credit_s for n in range(len(world.workers))]
        later = (at_s for at_s in (*credits_s, self._retry_s) if at_s > since_s + _JUST_AFTER_S / 2)
        return min(later, default=_NEVER_S)

    def _has_credit(self, world: PrefillWorld, now_s: float) -> bool:
        """Whether any worker takes more; else nobody can be placed, and nobody needs to be scored."""
        return any(world.left_s(index, now_s) < self._look_ahead_s for index in range(len(world.workers)))

    def _let_pass(self, head: QueueEntry, refusal: NoCapacity, now_s: float) -> None:
        for other in self._overtaking.find(head, refusal, now_s):
            self._give(other.entry, other.chosen, now_s)
        if refusal.waits_for is None:
            return
        if now_s - self._others_asked_s < LOOK_EVERY_S:
            self._retry_s = self._others_asked_s + LOOK_EVERY_S + _JUST_AFTER_S
        else:
            self._others_asked_s = now_s

    def _give(self, entry: QueueEntry, chosen: Chosen, now_s: float) -> None:
        prefill = chosen.placement.prefill
        if prefill is None:
            raise AssertionError(f"no prefill worker was chosen: {chosen.placement.reason}")
        self._queue.take(entry)
        live = self._lives.pop(entry.request_id)
        self._chooser.expect(prefill, live.request, now_s)
        index = next(i for i, worker in enumerate(live.world.workers) if worker.key == prefill)
        live.world.give(index, live.request, now_s)


_ANY_DECODE = WorkerKey(worker_id=WorkerId("decode-0"), epoch=Epoch(1))


def _view(key: WorkerKey, role: Role, config: WorldConfig, queued_s: float) -> WorkerView:
    return WorkerView(
        key=key,
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
