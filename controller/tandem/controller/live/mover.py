"""Carries out one move: drains and switches workers one after another, orders new ones, ends superfluous ones."""

from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from tandem.controller.deciding.values import AddWorkers, ExchangeWorker, Move, RemoveWorkers, SwitchRoles
from tandem.controller.live.eyes import Eyes
from tandem.controller.live.scaling import ScaleDesk, new_names
from tandem.controller.moves.command import Command, polls
from tandem.controller.moves.progress import Progress, advance, progress_of
from tandem.controller.policy.model import PolicySpec
from tandem.controller.policy.pools import PoolPolicy
from tandem.core.failpoints import failpoint_in_loop
from tandem.core.ids import WorkerId
from tandem.core.role_commands import CommandKind
from tandem.core.types import Role

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveEnd:
    """How a move ended; ``problem`` is empty when all of it was done."""

    problem: str = ""


class Mover:
    """One move on its way. ``step`` until it returns an end."""

    def __init__(self, move: Move, eyes: Eyes, scale: ScaleDesk, *, now_s: float, spec: PolicySpec) -> None:
        self._move = move
        self._eyes = eyes
        self._scale = scale
        self._until_s = now_s + spec.damping.move_timeout_s
        self._progress: Progress = progress_of(move)
        self._to_remove: list[WorkerId] = []
        self._to_add: Mapping[Role, int] = _additions(move)
        self._awaited: tuple[WorkerId, ...] = ()

    def treats(self, worker_id: WorkerId) -> bool:
        """Whether this worker is one of those that are drained for the move."""
        return worker_id in self._progress.left

    async def step(self, command: Command, spec: PolicySpec, now_s: float) -> tuple[Command, MoveEnd | None]:
        """Do what is next. Raises TandemError when an order can't be given now; then it is given with the next step."""
        if self._progress.left:
            command = await self._treat(command, spec, now_s)
        while self._to_remove:
            await self._scale.remove(self._to_remove[0], command.term)
            self._to_remove.pop(0)
        if self._progress.left:
            return command, None
        if self._progress.problem:
            return command, MoveEnd(problem=self._progress.problem)
        if self._to_add:
            await self._add(command, now_s)
        if now_s >= self._until_s:
            return command, MoveEnd(problem="it took too long")
        serving = {name for name, claimed in command.workers.items() if claimed.serves(claimed.report.role)}
        return command, MoveEnd() if serving.issuperset(self._awaited) else None

    async def _treat(self, command: Command, spec: PolicySpec, now_s: float) -> Command:
        worker_id = self._progress.left[0]
        claimed = command.workers.get(worker_id)
        if claimed is not None:
            command = await self._eyes.ask(command, polls(command, [(worker_id, claimed.epoch)]))
        advanced = advance(command, self._progress, self._pool(spec), now_s)
        command, self._progress = advanced.command, advanced.progress
        if advanced.stop is not None:
            self._to_remove.append(advanced.stop.worker_id)
            self._eyes.removed((advanced.stop.worker_id,))
        if advanced.send is None:
            return command
        kind = advanced.send.kind
        if kind is CommandKind.DRAIN:
            await failpoint_in_loop("c.before_drain")
        elif kind is CommandKind.SWITCH:
            await failpoint_in_loop("c.before_switch")
        command = await self._eyes.ask(command, (advanced.send,))
        if kind is CommandKind.DRAIN:
            await failpoint_in_loop("c.after_drain")
        elif kind is CommandKind.SWITCH:
            await failpoint_in_loop("c.after_switch")
        return command

    async def _add(self, command: Command, now_s: float) -> None:
        taken = {*self._eyes.roster.known, *self._eyes.roster.expected, *command.workers} - self._eyes.roster.removed
        workers: dict[WorkerId, Role] = {}
        for role, count in self._to_add.items():
            workers |= dict.fromkeys(new_names(role, count, {*taken, *workers}), role)
        await self._scale.add(workers, command.term)
        self._eyes.expect(workers, self._until_s)
        self._to_add, self._awaited = {}, tuple(workers)
        _log.info("workers_ordered", workers=list(workers))

    def _pool(self, spec: PolicySpec) -> PoolPolicy:
        """The policy of the pool that workers leave."""
        move = self._move
        if isinstance(move, SwitchRoles):
            leaves_prefill = move.to is Role.DECODE
        elif isinstance(move, RemoveWorkers):
            leaves_prefill = move.role is Role.PREFILL
        else:
            leaves_prefill = isinstance(move, ExchangeWorker) and move.add is Role.DECODE
        return spec.pools.prefill if leaves_prefill else spec.pools.decode


def _additions(move: Move) -> dict[Role, int]:
    if isinstance(move, AddWorkers):
        return {role: count for role, count in ((Role.PREFILL, move.prefill), (Role.DECODE, move.decode)) if count}
    return {move.add: 1} if isinstance(move, ExchangeWorker) else {}
