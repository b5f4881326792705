"""A controller's side of the command of workers: its term, whom it has claimed, what it knows of each. Pure.

Modelled in docs/spec/flip.pml. A worker counts as serving only if it was claimed in this term and this life and its
newest report answers the newest command that was sent to it: whatever is on its way is taken as already gone wrong.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from tandem.core.ids import Epoch, WorkerId
from tandem.core.role_commands import CommandKind, RoleCommand, RoleReport
from tandem.core.types import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """One worker under command."""

    epoch: Epoch
    report: RoleReport
    sent_sequence: int = 0  # of the newest command to it

    @property
    def is_settled(self) -> bool:
        """Whether its report answers everything it was told."""
        return self.report.sequence == self.sent_sequence

    def serves(self, role: Role) -> bool:
        """Whether it surely takes work in ``role``."""
        return self.is_settled and self.report.role is role and not self.report.draining


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What a controller with one term commands. Once ``deposed`` it must never send anything again."""

    term: int
    workers: Mapping[WorkerId, Claimed] = field(default_factory=dict)
    sequence: int = 0
    deposed: bool = False

    def num_serving(self, role: Role) -> int:
        """Workers that surely take work in ``role``."""
        return sum(1 for claimed in self.workers.values() if claimed.serves(role))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ordered:
    """The command state after an order, and what to send; a refusal sends nothing."""

    command: Command
    send: RoleCommand | None = None
    refusal: str = ""


def claims(command: Command, workers: Iterable[tuple[WorkerId, Epoch]]) -> tuple[RoleCommand, ...]:
    """Return what to send to those that are not yet claimed in this term and life; repeating it is harmless."""
    if command.deposed:
        return ()
    return tuple(
        RoleCommand(kind=CommandKind.CLAIM, worker_id=worker_id, epoch=epoch, term=command.term, sequence=0)
        for worker_id, epoch in workers
        if worker_id not in command.workers or command.workers[worker_id].epoch != epoch
    )


def polls(command: Command, workers: Iterable[tuple[WorkerId, Epoch]]) -> tuple[RoleCommand, ...]:
    """Return what asks each of these how it is: a claim, which changes nothing where it has been made."""
    if command.deposed:
        return ()
    return tuple(
        RoleCommand(kind=CommandKind.CLAIM, worker_id=worker_id, epoch=epoch, term=command.term, sequence=0)
        for worker_id, epoch in workers
    )


def heard(command: Command, report: RoleReport) -> Command:
    """Take a worker's report: its claim, the answer to a command, or the news that another controller rules."""
    if report.term > command.term:
        return replace(command, deposed=True)
    if report.term < command.term:
        return command  # from before the claim
    known = command.workers.get(report.worker_id)
    if known is not None and known.epoch == report.epoch:
        if report.sequence < known.report.sequence:
            return command  # overtaken
        claimed = replace(known, report=report)
    else:
        claimed = Claimed(epoch=report.epoch, report=report, sent_sequence=report.sequence)
    return replace(command, workers={**command.workers, report.worker_id: claimed})


def lost(command: Command, worker_id: WorkerId) -> Command:
    """Forget a worker whose process is gone; its next life must be claimed again."""
    return replace(command, workers={key: each for key, each in command.workers.items() if key != worker_id})


def drain(command: Command, worker_id: WorkerId) -> Ordered:
    """Order a worker to take no new work; refused for the last of its role that surely serves."""
    claimed = command.workers.get(worker_id)
    if claimed is None:
        return Ordered(command=command, refusal=f"{worker_id} is not claimed")
    role = claimed.report.role
    if not claimed.serves(role):
        return Ordered(command=command, refusal=f"{worker_id} does not serve")
    if command.num_serving(role) < 2:
        return Ordered(command=command, refusal=f"{worker_id} is the last {role.value} worker that surely serves")
    return _order(command, worker_id, CommandKind.DRAIN)


def undrain(command: Command, worker_id: WorkerId) -> Ordered:
    """Order a worker to take work again. It counts as serving only once it has said so."""
    if worker_id not in command.workers:
        return Ordered(command=command, refusal=f"{worker_id} is not claimed")
    return _order(command, worker_id, CommandKind.UNDRAIN)


def switch(command: Command, worker_id: WorkerId, to: Role) -> Ordered:
    """Order a worker to change its role; refused until it has said that it is drained."""
    claimed = command.workers.get(worker_id)
    if claimed is None:
        return Ordered(command=command, refusal=f"{worker_id} is not claimed")
    if not is_drained(command, worker_id):
        return Ordered(command=command, refusal=f"{worker_id} has not said that it is drained")
    return _order(command, worker_id, CommandKind.SWITCH, to)


def hand_over(command: Command, worker_id: WorkerId) -> Ordered:
    """Order a draining worker to end what is left, so that routers continue it elsewhere."""
    if worker_id not in command.workers:
        return Ordered(command=command, refusal=f"{worker_id} is not claimed")
    return _order(command, worker_id, CommandKind.HAND_OVER)


def is_drained(command: Command, worker_id: WorkerId) -> bool:
    """Whether a worker has answered everything it was told, drains and holds nothing."""
    claimed = command.workers.get(worker_id)
    return claimed is not None and claimed.is_settled and claimed.report.draining and not claimed.report.busy


def left_draining(command: Command) -> tuple[WorkerId, ...]:
    """Return the workers that a controller before this one left in the middle: they are to be undrained first."""
    return tuple(
        worker_id for worker_id, claimed in command.workers.items() if claimed.is_settled and claimed.report.draining
    )


def _order(command: Command, worker_id: WorkerId, kind: CommandKind, role: Role | None = None) -> Ordered:
    if command.deposed:
        return Ordered(command=command, refusal="another controller rules")
    claimed = command.workers[worker_id]
    sequence = command.sequence + 1
    workers = {**command.workers, worker_id: replace(claimed, sent_sequence=sequence)}
    return Ordered(
        command=replace(command, sequence=sequence, workers=workers),
        send=RoleCommand(
            kind=kind,
            worker_id=worker_id,
            epoch=claimed.epoch,
            term=command.term,
            sequence=sequence,
            role=role,
        ),
    )
