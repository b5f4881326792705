"""One switch or removal on its way: drain, then switch or stop, worker after worker. Pure.

Each round ``advance`` looks at what workers have reported and says what to send next. A worker that does not drain in
time is undrained and the rest of the move given up; or, if the policy says so, what is left is handed over to other
workers by the routers.
"""

from dataclasses import dataclass, replace

from tandem.controller.deciding.values import ExchangeWorker, Move, RemoveWorkers, SwitchRoles
from tandem.controller.moves.command import Command, Ordered, drain, hand_over, is_drained, switch, undrain
from tandem.controller.policy.pools import OnTimeout, PoolPolicy
from tandem.core.ids import Epoch, WorkerId
from tandem.core.role_commands import RoleCommand
from tandem.core.types import Role

_REPEAT_S = 2.0  # an order without an answer is given again, with a new number
_SWITCH_S = 15.0  # for a drained worker to change its role, or for one that is told to hand over what it has


@dataclass(frozen=True, slots=True, kw_only=True)
class StopWorker:
    """To whoever runs the processes: end this life of this worker; it is drained, or its time is over."""

    worker_id: WorkerId
    epoch: Epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a move is. ``left`` begins with the worker that is being treated."""

    left: tuple[WorkerId, ...]
    to: Role | None  # None = they end
    done: tuple[WorkerId, ...] = ()
    drain_since_s: float | None = None  # when the drain of the first one began
    ordered_s: float | None = None  # when the newest order was given
    switch_ordered: bool = False  # the first one was told to change its role
    handed_over: bool = False  # the first one was told to hand over what was left
    giving_up: bool = False
    problem: str = ""

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        return not self.left


@dataclass(frozen=True, slots=True, kw_only=True)
class Advanced:
    """After one look: the command state, the progress, what to do."""

    command: Command
    progress: Progress
    send: RoleCommand | None = None
    stop: StopWorker | None = None


def progress_of(move: Move) -> Progress:
    """Return the beginning of a move's way; additions have nothing to drain."""
    if isinstance(move, SwitchRoles):
        return Progress(left=move.workers, to=move.to)
    if isinstance(move, RemoveWorkers):
        return Progress(left=move.workers, to=None)
    return Progress(left=(move.remove,) if isinstance(move, ExchangeWorker) else (), to=None)


def advance(command: Command, progress: Progress, pool: PoolPolicy, now_s: float) -> Advanced:
    """Do the next step, if there is one. ``pool`` is the policy of the pool that the workers leave."""
    if progress.is_over:
        return Advanced(command=command, progress=progress)
    worker_id = progress.left[0]
    claimed = command.workers.get(worker_id)
    if command.deposed or claimed is None:
        why = "another controller rules" if command.deposed else f"{worker_id} is gone"
        return Advanced(command=command, progress=replace(progress, left=(), problem=why))
    if progress.giving_up:
        return _give_up(command, progress, worker_id, now_s)
    if progress.drain_since_s is None:
        return _begin(command, progress, worker_id, now_s)
    if progress.to is not None:
        if claimed.serves(progress.to):
            return _next(command, progress)
        if is_drained(command, worker_id):
            return _switch(command, progress, progress.to, pool, now_s)
    return _leave(command, progress, worker_id, pool, now_s)


def _switch(command: Command, progress: Progress, to: Role, pool: PoolPolicy, now_s: float) -> Advanced:
    """Order the switch; again when it was refused, but not for ever."""
    worker_id = progress.left[0]
    if progress.drain_since_s is not None and now_s - progress.drain_since_s >= pool.drain.timeout_s + 2 * _SWITCH_S:
        stuck = f"{worker_id} did not change its role"
        return _give_up(command, replace(progress, giving_up=True, problem=stuck), worker_id, now_s)
    was_refused = progress.switch_ordered and progress.ordered_s is not None
    if was_refused and progress.ordered_s is not None and now_s - progress.ordered_s < _REPEAT_S:
        return Advanced(command=command, progress=progress)
    return _ordered(switch(command, worker_id, to), replace(progress, switch_ordered=True), now_s)


def _leave(command: Command, progress: Progress, worker_id: WorkerId, pool: PoolPolicy, now_s: float) -> Advanced:
    """Wait for the drain; end a worker that shall end; see to one that takes too long."""
    since_s = now_s if progress.drain_since_s is None else progress.drain_since_s
    is_late = now_s - since_s >= pool.drain.timeout_s
    may_end = is_drained(command, worker_id) or (is_late and pool.drain.on_timeout is OnTimeout.RECOVER)
    if progress.to is None and may_end:
        stopped = StopWorker(worker_id=worker_id, epoch=command.workers[worker_id].epoch)
        return replace(_next(command, progress), stop=stopped)
    if is_late and pool.drain.on_timeout is OnTimeout.RECOVER and progress.to is not None:
        if not progress.handed_over:
            return _ordered(hand_over(command, worker_id), replace(progress, handed_over=True), now_s)
        if now_s - since_s < pool.drain.timeout_s + _SWITCH_S:
            return Advanced(command=command, progress=progress)
    if is_late:
        late = f"{worker_id} did not drain in {pool.drain.timeout_s:.0f} s"
        return _give_up(command, replace(progress, giving_up=True, problem=late), worker_id, now_s)
    return Advanced(command=command, progress=progress)


def _begin(command: Command, progress: Progress, worker_id: WorkerId, now_s: float) -> Advanced:
    ordered = drain(command, worker_id)
    if ordered.send is None:
        return Advanced(command=command, progress=replace(progress, left=(), problem=ordered.refusal))
    return _ordered(ordered, replace(progress, drain_since_s=now_s), now_s)


def _give_up(command: Command, progress: Progress, worker_id: WorkerId, now_s: float) -> Advanced:
    """Undrain until the worker says that it serves, in whichever role it then has."""
    claimed = command.workers[worker_id]
    if claimed.is_settled and not claimed.report.draining:
        return Advanced(command=command, progress=replace(progress, left=()))
    is_asked = progress.ordered_s is not None and not claimed.is_settled
    if is_asked and progress.ordered_s is not None and now_s - progress.ordered_s < _REPEAT_S:
        return Advanced(command=command, progress=progress)
    return _ordered(undrain(command, worker_id), progress, now_s)


def _next(command: Command, progress: Progress) -> Advanced:
    done = (*progress.done, progress.left[0])
    return Advanced(
        command=command,
        progress=replace(
            progress, left=progress.left[1:], done=done, drain_since_s=None, handed_over=False, switch_ordered=False
        ),
    )


def _ordered(ordered: Ordered, progress: Progress, now_s: float) -> Advanced:
    return Advanced(command=ordered.command, progress=replace(progress, ordered_s=now_s), send=ordered.send)
