"""Places one waiting request: what it needs, what is cached where, which workers and pairs there are. Zero I/O."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tandem.core.blocks import AttemptKey
from tandem.core.types import GenerationTask, Role
from tandem.router.actions import Pair, WorkerKey
from tandem.router.admission.yielding import DecodeRoom
from tandem.router.cache.names import PromptNames
from tandem.router.cache.view import CacheView
from tandem.router.candidates import Candidate, candidates_of
from tandem.router.fleet import Fleet
from tandem.router.lengths import CHARGED, OutputLengths
from tandem.router.live import CachedThen, Live, charges_of, demand_of, entry_of
from tandem.router.pairs import PairBreakers
from tandem.router.placement import (
    CachedPrefix,
    Demand,
    NoCapacity,
    Placement,
    PlacementMode,
    PlacementPolicy,
    num_blocks_for,
    place,
    place_held,
)
from tandem.router.queue import QueueEntry
from tandem.router.serving import ServingWatch

_LOOK_UP_AGAIN_S = 0.1  # a request that waits is scored anew with each step of any worker, which a look-up may outlast


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Where a request goes, for what it needs."""

    demand: Demand
    placement: Placement


@dataclass(frozen=True, slots=True)
class DropHeld:
    """Nobody can take over the KV that P holds for this request: it must be given up before anything else."""


class Placer:
    """Chooses, and writes what it chose into the in-flight estimates, the breakers and the view of the caches."""

    def __init__(
        self,
        *,
        fleet: Fleet,
        pairs: PairBreakers,
        policy: PlacementPolicy,
        serving: ServingWatch,
        cache: CacheView | None = None,
    ) -> None:
        self._fleet = fleet
        self._pairs = pairs
        self._policy = policy
        self._serving = serving
        self._cache = cache
        self.asked_s: Mapping[WorkerKey, float] = {}  # work that waits for its reservation, where it would go
        self._lengths = OutputLengths()

    def entry_of(
        self, task: GenerationTask, names: PromptNames | None, *, deadline_s: float | None, arrived_s: float
    ) -> QueueEntry:
        """What the queue has to know of a new request; what is cached of its prompt is no work."""
        num_tokens = len(task.prompt_token_ids)
        cached = self._look_up(names, arrived_s)
        num_cached = max((prefix.num_tokens for prefix in cached.values()), default=0)
        num_cached = min(num_cached, num_tokens - 1)
        return entry_of(
            task,
            expected_tokens=self.charged_tokens(task),
            num_cached_tokens=num_cached,
            kv_tokens=num_tokens + self.planned_tokens(task) * task.num_sequences,
            work_s=self._fleet.typical_prefill_s(num_tokens, num_cached_tokens=num_cached),
            deadline_s=deadline_s,
            arrived_s=arrived_s,
        )

    @property
    def is_aggregated(self) -> bool:
        """Whether no prefill worker computes prompts."""
        return self._policy.mode is PlacementMode.AGGREGATED

    def charged_tokens(self, task: GenerationTask) -> int:
        """Output tokens that a new request is charged for until it has ended: nine of ten come to less."""
        each = self._lengths.expected_tokens(task.tenant, task.stop.max_tokens, share=CHARGED)
        return each * task.num_sequences

    def planned_tokens(self, task: GenerationTask) -> int:
        """Output tokens per sequence that slots and blocks are planned with: three of four come to less."""
        return self._lengths.expected_tokens(task.tenant, task.stop.max_tokens)

    def rooms_for(self, live: Live) -> Sequence[DecodeRoom]:
        """What each decode worker has free for ``live``, and what it would need there."""
        demand = demand_of(live.ledger.task, avoid=live.avoid, avoid_pairs=live.avoid_pairs, lengths=self._lengths)
        return [
            DecodeRoom(
                worker=view.key,
                free_slots=view.max_sequences - view.num_sequences,
                free_blocks=view.free_blocks,
                needed_blocks=num_blocks_for(demand, view.block_size),
            )
            for view in self._fleet.views(Role.DECODE)
            if view.key not in demand.avoid
        ]

    def learn(self, task: GenerationTask, num_tokens: int) -> None:
        """One sequence ended well, with so many tokens."""
        self._lengths.observe(task.tenant, num_tokens)

    def choose(
        self,
        live: Live,
        now_s: float,
        *,
        num_waiting: int = 0,
        ahead_s: Mapping[WorkerKey, float] | None = None,
        reserved: WorkerKey | None = None,
    ) -> Chosen | NoCapacity | DropHeld:
        """Choose where ``live`` goes now; ``ahead_s`` is work of others that will go to a prefill worker before it.

        With ``reserved`` that prefill worker takes it or none does: where work goes that is asked for counts no more.
        """
        ledger, fleet = live.ledger, self._fleet
        prefills, decodes = fleet.views(Role.PREFILL), fleet.views(Role.DECODE)
        for more_s in (ahead_s, None if reserved else self.asked_s):
            if more_s:
                prefills = [replace(p, queued_prefill_s=p.queued_prefill_s + more_s.get(p.key, 0.0)) for p in prefills]
        demand = replace(
            demand_of(ledger.task, avoid=live.avoid, avoid_pairs=live.avoid_pairs, lengths=self._lengths),
            cached=self._cached(live, now_s),
            num_waiting=num_waiting,
            draw=zlib.crc32(live.entry.request_id.encode()),
            reserved=reserved,
        )
        blocked = self._pairs.blocked(now_s)
        choice: Placement | NoCapacity | None
        if ledger.held is not None:
            choice = place_held(demand, holder=ledger.held.worker, prefills=prefills, decodes=decodes, blocked=blocked)
        else:
            policy = self._policy
            if (share := fleet.borrowing.share(now_s)) > 0.0:
                policy = replace(policy, borrow_share=share)
            choice = place(demand, prefills=prefills, decodes=decodes, policy=policy, blocked=blocked)
        if choice is None:
            return DropHeld()
        return choice if isinstance(choice, NoCapacity) else Chosen(demand=demand, placement=choice)

    def candidates(self, chosen: Chosen, now_s: float, *, most: int) -> Sequence[Candidate]:
        """Between which prefill workers the other routers' reservations may decide; empty if it goes to none."""
        placement, weighed = chosen.placement, chosen.placement.weighed
        if placement.prefill is None or weighed is None or len(weighed.prefills) < 2:
            return ()
        return candidates_of(
            weighed,
            chosen=placement.prefill,
            policy=self._policy,
            blocked=self._pairs.blocked(now_s),
            asked_s=self.asked_s,
            most=most,
        )

    def note(self, live: Live, chosen: Chosen, now_s: float) -> None:
        """Count the attempt on its workers, and as a probe if its pair is on trial; expect its prompt to be cached."""
        placement = chosen.placement
        key = AttemptKey(request_id=live.entry.request_id, attempt=live.ledger.task.attempt)
        for worker, charge in charges_of(chosen.demand, placement).items():
            record = self._fleet.get(worker)
            if record is not None:
                record.in_flight.add(key, charge)
        if placement.prefill is not None:
            self._pairs.placed(Pair(prefill=placement.prefill, decode=placement.decode), key)
        self._serving.note(placement.cause, now_s)
        self._expect(live, placement, now_s)

    def _cached(self, live: Live, now_s: float) -> Mapping[WorkerKey, CachedPrefix]:
        then = live.cached_then
        if then is None or now_s - then.at_s >= _LOOK_UP_AGAIN_S:
            then = live.cached_then = CachedThen(self._look_up(live.names, now_s), now_s)
        return then.cached

    def _look_up(self, names: PromptNames | None, now_s: float) -> Mapping[WorkerKey, CachedPrefix]:
        if self._cache is None or names is None:
            return {}
        return self._cache.cached(names, (*self._fleet.views(Role.PREFILL), *self._fleet.views(Role.DECODE)), now_s)

    def _expect(self, live: Live, placement: Placement, now_s: float) -> None:
        if self._cache is None or live.names is None:
            return
        workers = [record for key in (placement.prefill, placement.decode) if key and (record := self._fleet.get(key))]
        self._cache.expect(live.names, [record.view() for record in workers], now_s)
        live.cached_then = None
