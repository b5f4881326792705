"""A world for the role switch: three workers, two controllers, a network that delays, repeats and overtakes.

The same story as docs/spec/flip.pml, told by the production code. ``step`` does one thing drawn from the seed; a role
without a worker that takes work, or work lost by a switch, is a ``Violation``.
"""

import random
from dataclasses import dataclass, field, replace

from tandem.controller.deciding.values import SwitchRoles
from tandem.controller.moves import command as commanding
from tandem.controller.moves.command import Command
from tandem.controller.moves.progress import Progress, advance, progress_of
from tandem.controller.policy.base import Seconds
from tandem.controller.policy.pools import DrainSection, PoolPolicy
from tandem.core.ids import Epoch, WorkerId
from tandem.core.role_commands import RoleCommand, RoleGuard, RoleReport, obey
from tandem.core.types import Role

IDS = tuple(WorkerId(name) for name in ("p0", "p1", "d0"))
EPOCH = Epoch(1)
POOL = PoolPolicy.model_validate({"maxReplicas": 3}).model_copy(
    update={"drain": DrainSection().model_copy(update={"timeout_s": Seconds(6)})}
)


class Violation(Exception):
    """An invariant does not hold."""


@dataclass
class Controller:
    """One life of a controller, with what is on its way to it."""

    command: Command
    inbox: list[RoleReport] = field(default_factory=list)
    progress: Progress | None = None
    num_moves: int = 0
    alive: bool = True


@dataclass
class World:
    """Workers, controllers, network."""

    seed: int
    fence: bool = True  # workers refuse terms that are over
    order: bool = True  # … and commands that were repeated or overtaken
    claim: bool = True  # a controller raises the workers' term before it reads their state
    fresh: bool = True  # … and reads it from the workers, not from a store
    switches: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        roles = (Role.PREFILL, Role.PREFILL, Role.DECODE)
        self.guards = {
            name: RoleGuard(worker_id=name, epoch=EPOCH, role=role) for name, role in zip(IDS, roles, strict=True)
        }
        self.stored = {name: guard.role for name, guard in self.guards.items()}
        self.busy = dict.fromkeys(IDS, False)
        self.commands: list[RoleCommand] = []
        self.controllers = [Controller(command=Command(term=1))]
        self.now_s = 0.0
        self.repeats = 3

    def step(self) -> None:
        """One thing happens."""
        self.now_s += self.random.choice((0.1, 0.5, 2.0))
        what = self.random.choices(
            (self._deliver, self._hear, self._act, self._work, self._start_second, self._crash),
            weights=(8, 8, 8, 3, 0.4, 0.1),
        )[0]
        what()
        self.check()

    def check(self) -> None:
        """Each role has a worker that takes work."""
        for role in Role:
            if not any(guard.role is role and not guard.draining for guard in self.guards.values()):
                raise Violation(f"no {role.value} worker takes work at {self.now_s:.1f} s")

    def calm(self) -> None:
        """From now on nothing goes wrong: messages arrive in order, nobody dies, work ends."""
        newest = self.controllers[-1]
        newest.alive = True
        for _ in range(400):
            self.now_s += 0.5
            self.busy = dict.fromkeys(IDS, False)
            while self.commands:
                self._obey(self.commands.pop(0))
            self._report_all(newest)
            while newest.inbox:
                newest.command = commanding.heard(newest.command, newest.inbox.pop(0))
            self._control(newest, may_begin=False)

    # --- what may happen ------------------------------------------------------------------------------------------

    def _deliver(self) -> None:
        if not self.commands:
            return
        index = self.random.randrange(len(self.commands))
        command = self.commands[index]
        if self.repeats and self.random.random() < 0.2:
            self.repeats -= 1
        else:
            del self.commands[index]
        self._obey(command)

    def _obey(self, command: RoleCommand) -> None:
        guard = self.guards[command.worker_id]
        seen = guard
        if not self.fence and command.term < guard.term:
            seen = replace(guard, term=command.term, sequence=0)
        if not self.order and command.term == guard.term and command.sequence <= guard.sequence:
            seen = replace(seen, sequence=-1)
        if not self.claim and command.term > guard.term:
            seen = replace(seen, term=command.term, sequence=0)
        result = obey(seen, command, busy=self.busy[command.worker_id])
        if result.guard is seen:
            return
        if result.guard.role is not guard.role:
            self.switches += 1
            if self.busy[command.worker_id]:
                raise Violation("a busy worker switched")
        self.guards[command.worker_id] = replace(
            result.guard,
            term=max(result.guard.term, guard.term),
            sequence=max(result.guard.sequence, guard.sequence)
            if result.guard.term == guard.term
            else result.guard.sequence,
        )
        for controller in self.controllers:
            self._report(controller, command.worker_id)

    def _report(self, controller: Controller, worker_id: WorkerId) -> None:
        report = self.guards[worker_id].report(busy=self.busy[worker_id])
        known = controller.command.workers.get(worker_id)
        if known is None and not self.claim:
            report = replace(report, term=controller.command.term, sequence=0)
        if known is None and not self.fresh and report.term == controller.command.term:
            report = replace(report, role=self.stored[worker_id], draining=False)
        controller.inbox.append(report)

    def _report_all(self, controller: Controller) -> None:
        for worker_id in IDS:
            self._report(controller, worker_id)

    def _hear(self) -> None:
        controller = self.random.choice(self.controllers)
        if not controller.inbox:
            self._report(controller, self.random.choice(IDS))
            return
        report = controller.inbox.pop(self.random.randrange(len(controller.inbox)))
        controller.command = commanding.heard(controller.command, report)

    def _act(self) -> None:
        controller = self.random.choice(self.controllers)
        if controller.alive:
            self._control(controller, may_begin=True)

    def _control(self, controller: Controller, *, may_begin: bool) -> None:
        command = controller.command
        unclaimed = [(name, EPOCH) for name in IDS if name not in command.workers]
        if unclaimed:
            if self.claim:
                self.commands += commanding.claims(command, unclaimed)
            else:
                self._report_all(controller)
            return
        if controller.progress is not None:
            advanced = advance(command, controller.progress, POOL, self.now_s)
            controller.command, controller.progress = advanced.command, advanced.progress
            if advanced.send is not None:
                self.commands.append(advanced.send)
            if advanced.progress.is_over:
                for worker_id in advanced.progress.done:
                    self.stored[worker_id] = advanced.command.workers[worker_id].report.role
                controller.progress = None
            return
        for worker_id in commanding.left_draining(command):
            ordered = commanding.undrain(controller.command, worker_id)
            controller.command = ordered.command
            if ordered.send is not None:
                self.commands.append(ordered.send)
            return
        if may_begin and controller.num_moves < 4:
            controller.num_moves += 1
            worker_id = self.random.choice(IDS)
            role = command.workers[worker_id].report.role
            to = Role.DECODE if role is Role.PREFILL else Role.PREFILL
            controller.progress = progress_of(SwitchRoles(workers=(worker_id,), to=to))

    def _work(self) -> None:
        worker_id = self.random.choice(IDS)
        self.busy[worker_id] = not self.busy[worker_id] and not self.guards[worker_id].draining

    def _start_second(self) -> None:
        """A second controller begins while the first one may go on."""
        if len(self.controllers) == 1:
            self.controllers.append(Controller(command=Command(term=2)))

    def _crash(self) -> None:
        self.random.choice(self.controllers).alive = False


def explore(seeds: range, steps: int = 150, **guards: bool) -> str:
    """Return the first violation among ``seeds``; empty = none."""
    for seed in seeds:
        world = World(seed=seed, **guards)
        try:
            for _ in range(steps):
                world.step()
        except Violation as violation:
            return f"seed {seed}: {violation}"
    return ""
