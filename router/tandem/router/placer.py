"""Places one waiting request: what it needs, what the fleet offers, which pairs hand over. Zero I/O."""

from dataclasses import dataclass

from tandem.core.blocks import AttemptKey
from tandem.core.types import GenerationTask, Role
from tandem.router.actions import Pair
from tandem.router.fleet import Fleet
from tandem.router.lengths import OutputLengths
from tandem.router.live import Live, charges_of, demand_of
from tandem.router.pairs import PairBreakers
from tandem.router.placement import Demand, NoCapacity, Placement, PlacementPolicy, place, place_held


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Where a request goes, for what it needs."""

    demand: Demand
    placement: Placement


@dataclass(frozen=True, slots=True)
class DropHeld:
    """Nobody can take over the KV that P holds for this request: it must be given up before anything else."""


class Placer:
    """Chooses, and writes what it chose into the in-flight estimates and the breakers."""

    def __init__(self, *, fleet: Fleet, pairs: PairBreakers, policy: PlacementPolicy) -> None:
        self._fleet = fleet
        self._pairs = pairs
        self._policy = policy
        self._lengths = OutputLengths()

    def expected_tokens(self, task: GenerationTask) -> int:
        """Output tokens to expect per sequence."""
        return self._lengths.expected_tokens(task.tenant, task.stop.max_tokens)

    def learn(self, task: GenerationTask, num_tokens: int) -> None:
        """One sequence ended well, with so many tokens."""
        self._lengths.observe(task.tenant, num_tokens)

    def choose(self, live: Live, now_s: float) -> Chosen | NoCapacity | DropHeld:
        """Choose where ``live`` goes now."""
        ledger, fleet = live.ledger, self._fleet
        demand = demand_of(ledger.task, avoid=live.avoid, avoid_pairs=live.avoid_pairs, lengths=self._lengths)
        prefills, decodes = fleet.views(Role.PREFILL), fleet.views(Role.DECODE)
        blocked = self._pairs.blocked(now_s)
        choice: Placement | NoCapacity | None
        if ledger.held is not None:
            choice = place_held(demand, holder=ledger.held.worker, prefills=prefills, decodes=decodes, blocked=blocked)
        else:
            choice = place(demand, prefills=prefills, decodes=decodes, policy=self._policy, blocked=blocked)
        if choice is None:
            return DropHeld()
        return choice if isinstance(choice, NoCapacity) else Chosen(demand=demand, placement=choice)

    def note(self, live: Live, chosen: Chosen) -> None:
        """Count the attempt on its workers, and as a probe if its pair is on trial."""
        placement = chosen.placement
        key = AttemptKey(request_id=live.entry.request_id, attempt=live.ledger.task.attempt)
        for worker, charge in charges_of(chosen.demand, placement).items():
            record = self._fleet.get(worker)
            if record is not None:
                record.in_flight.add(key, charge)
        if placement.prefill is not None:
            self._pairs.placed(Pair(prefill=placement.prefill, decode=placement.decode), key)
