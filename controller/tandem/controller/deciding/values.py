"""Moves, decisions, and what the controller remembers between two rounds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tandem.controller.forecast.choice import AnyForecast
from tandem.controller.policy.bounds import Split
from tandem.core.ids import WorkerId
from tandem.core.types import PriorityClass, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchRoles:
    """These workers change their role, one after another."""

    workers: tuple[WorkerId, ...]
    to: Role


@dataclass(frozen=True, slots=True, kw_only=True)
class AddWorkers:
    """So many new workers of each role."""

    prefill: int = 0
    decode: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveWorkers:
    """These workers drain and end."""

    workers: tuple[WorkerId, ...]
    role: Role


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeWorker:
    """One worker drains and ends, and one of the other role takes its place: both or neither."""

    remove: WorkerId
    add: Role


Move = SwitchRoles | AddWorkers | RemoveWorkers | ExchangeWorker


class Verdict(StrEnum):
    """What a round ended in."""

    MOVE = "move"
    ADVISE = "advise"  # mode Advisory: what would have been done
    HOLD = "hold"  # nothing to do, or a clamp says not now
    FREEZE = "freeze"  # metrics can't be believed
    OFF = "off"


@dataclass(frozen=True, slots=True, kw_only=True)
class Borrow:
    """The first speed: the share of prompts that decode workers should compute. Costs nothing to change."""

    share: float = 0.0
    reason: str = "the prefill pool keeps its promises"


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRecord:
    """One round, for people and for replay: what was seen, wanted, held back, done, and why."""

    time_s: float  # wall clock
    policy: str
    verdict: Verdict
    reason: str  # in words
    current: Split
    wished: Split | None = None
    move: Move | None = None
    is_repair: bool = False  # the move gives workers back the roles they had; it counts as none
    borrow_share: float = 0.0
    clamps: tuple[str, ...] = ()  # what kept the wish from being carried out whole
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveInFlight:
    """The one move that is being carried out."""

    move: Move
    begun_s: float
    is_repair: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What one round wanted."""

    time_s: float
    split: Split


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolChange:
    """One change of a pool's size, for the rates that `behavior` allows."""

    time_s: float
    role: Role
    delta: int
    size_before: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerState:
    """All that a round needs of the ones before. Rebuilt from nothing after a death: then nothing moves for a dwell."""

    forecasts: Mapping[PriorityClass, AnyForecast] = field(default_factory=dict)
    unlearnt: AnyForecast | None = None  # what ``forecasts`` began as: a policy that asks for another begins anew
    wishes: tuple[Wish, ...] = ()
    in_flight: MoveInFlight | None = None
    last_move_begun_s: float | None = None
    last_move_ended_s: float | None = None
    last_switch_to: Role | None = None
    changes: tuple[PoolChange, ...] = ()
    stale_since_s: float | None = None
    borrow_share: float = 0.0  # that the last round asked for: what was measured since was measured under it


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A round's result: the record, what to do, what to remember."""

    record: DecisionRecord
    state: ControllerState
    move: Move | None = None
    borrow: Borrow = field(default_factory=Borrow)
