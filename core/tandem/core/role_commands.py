"""Orders to change a worker's role, and the guard a worker checks them with. Pure; modelled in docs/spec/flip.pml.

A controller has a *term*, higher than that of every controller before it, and numbers its commands with a *sequence*.
A worker obeys only the highest term it has been claimed by, and of that term only commands with a rising sequence: what
a dead or suspended controller still has on its way, and what the network repeats or overtakes, has no effect.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from tandem.core.ids import Epoch, WorkerId
from tandem.core.types import Role


class CommandKind(StrEnum):
    """What a controller may tell a worker."""

    CLAIM = "claim"  # obey my term from now on; changes nothing else
    DRAIN = "drain"  # take no new work
    UNDRAIN = "undrain"  # take work again
    HAND_OVER = "hand_over"  # end what is left, so that its router continues it elsewhere; obeyed only while draining
    SWITCH = "switch"  # change the role; obeyed only when drained


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleCommand:
    """Controller to worker. ``epoch`` names the life of the worker that is meant."""

    kind: CommandKind
    worker_id: WorkerId
    epoch: Epoch
    term: int
    sequence: int  # 0 for a claim
    role: Role | None = None  # of a switch


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleReport:
    """Worker to controller: what it is after the last command it obeyed."""

    worker_id: WorkerId
    epoch: Epoch
    term: int
    sequence: int
    role: Role
    draining: bool
    busy: bool  # holds attempts or hand-overs


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleGuard:
    """A worker's side: its role, whether it drains, and whom it obeys."""

    worker_id: WorkerId
    epoch: Epoch
    role: Role
    draining: bool = False
    term: int = 0
    sequence: int = 0

    def report(self, *, busy: bool) -> RoleReport:
        """Return what the controller is told."""
        return RoleReport(
            worker_id=self.worker_id,
            epoch=self.epoch,
            term=self.term,
            sequence=self.sequence,
            role=self.role,
            draining=self.draining,
            busy=busy,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Obeyed:
    """What became of a command: the guard after it, and why it was refused (empty = it was obeyed)."""

    guard: RoleGuard
    refusal: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleAnswer:
    """What a worker answers to a command: what it is now, and why it did not obey (empty = it did)."""

    report: RoleReport
    refusal: str = ""


def obey(guard: RoleGuard, command: RoleCommand, *, busy: bool) -> Obeyed:
    """Return what a worker makes of a command; ``busy`` says whether it holds attempts or hand-overs now."""
    if command.epoch != guard.epoch or command.worker_id != guard.worker_id:
        return Obeyed(guard=guard, refusal=f"meant for another life (epoch {command.epoch})")
    if command.term < guard.term:
        return Obeyed(guard=guard, refusal=f"term {command.term} is over; term {guard.term} is obeyed")
    if command.kind is CommandKind.CLAIM:
        raised = command.term > guard.term
        return Obeyed(guard=replace(guard, term=command.term, sequence=0) if raised else guard)
    if command.term > guard.term:
        return Obeyed(guard=guard, refusal=f"term {command.term} has not claimed this worker")
    if command.sequence <= guard.sequence:
        return Obeyed(guard=guard, refusal=f"command {command.sequence} came after {guard.sequence}")
    return _change(replace(guard, sequence=command.sequence), command, busy=busy)


def _change(heard: RoleGuard, command: RoleCommand, *, busy: bool) -> Obeyed:
    """Carry out a command that is to be obeyed; ``heard`` has counted it."""
    if command.kind is CommandKind.SWITCH:
        if not heard.draining or busy or command.role is None:
            return Obeyed(guard=heard, refusal="not drained")
        return Obeyed(guard=replace(heard, role=command.role, draining=False))
    if command.kind is CommandKind.HAND_OVER:
        return Obeyed(guard=heard, refusal="" if heard.draining else "not draining")
    return Obeyed(guard=replace(heard, draining=command.kind is CommandKind.DRAIN))
