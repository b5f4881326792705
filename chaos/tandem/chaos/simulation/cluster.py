"""The simulated cluster: processes that start, die and start again, a registry, callers, and the reckoning."""

from functools import partial

from tandem.chaos.simulation.client import Ask, Caller
from tandem.chaos.simulation.events import Judge
from tandem.chaos.simulation.kv_wire import KvFabric
from tandem.chaos.simulation.network import Network, Plane
from tandem.chaos.simulation.plan import ClusterPlan
from tandem.chaos.simulation.process import Process
from tandem.chaos.simulation.refusals import is_queue_too_long
from tandem.chaos.simulation.router import SimRouter
from tandem.chaos.simulation.worker import SimWorker
from tandem.chaos.simulation.worker_parts import WorkerPlan
from tandem.chaos.simulation.world import World
from tandem.core.errors import TandemError
from tandem.core.types import Outcome, Role
from tandem.router.directory import MemoryDirectory

ROUTER = "router-0"
REGISTRY = "registry"
_TTL_S = 6.0
_ANNOUNCE_S = 1.5
_MOST_KILLED = 3  # blame is shared: one of many twice, and the third time alone
_GRACE_S = 1.5
_FREED_WITHIN_S = 2.0


class SimCluster:
    """One router, its workers, a registry, and everybody who asks."""

    def __init__(self, world: World, plan: ClusterPlan) -> None:
        self.world = world
        self.plan = plan
        self.network = Network(world)
        self.fabric = KvFabric(self.network)
        self.judge = Judge(world)
        self.registry = Process(world, REGISTRY)
        self.directory = MemoryDirectory(self.registry.clock)
        self.workers: dict[str, SimWorker] = {}
        self.dead: dict[str, Process] = {}  # the last life of a worker that is not up
        self.callers: list[Caller] = []
        self.num_restarts = 0
        self._killed_by: dict[str, int] = {}
        for worker in plan.workers:
            delay_s = world.rng.uniform(8.0, 25.0) if worker.name in plan.late else 0.0
            world.at(delay_s, partial(self._start_late if delay_s else self.start_worker, worker))
        self.router = self._start_router()

    # --- processes -------------------------------------------------------------------------------------------------

    def _start_router(self) -> SimRouter:
        return SimRouter(
            Process(self.world, ROUTER, **self._clock()),
            self.plan.router,
            network=self.network,
            directory=self.directory,
            find=self.workers.get,
            through_codec=self.plan.through_codec,
            judge=self.judge,
        )

    def _clock(self) -> dict[str, float]:
        rng, skew = self.world.rng, self.plan.skew
        offset_s = rng.uniform(-1e6, 1e6)
        if skew:
            self.world.hit("clock_skew")
        return {"offset_s": offset_s, "rate": rng.uniform(1.0 - skew, 1.0 + skew)}

    def _start_late(self, plan: WorkerPlan) -> None:
        self.world.hit("late_join")
        self.start_worker(plan)

    def start_worker(self, plan: WorkerPlan) -> None:
        """Start a life of a worker."""
        if plan.name in self.workers:
            return
        former = self.dead.pop(plan.name, None)
        if former is not None:
            former.bury()
        process = Process(self.world, plan.name, **self._clock())
        worker = SimWorker(process, plan, self.fabric, self.judge)
        worker.on_fatal_request = partial(self._note_killed, plan.role)
        self.workers[plan.name] = worker
        process.at_death(partial(self._is_gone, worker))
        announce = partial(self._announce, worker)
        announce()
        process.every(_ANNOUNCE_S, announce)

    def _announce(self, worker: SimWorker) -> None:
        if self.network.is_whole(worker.plan.name, REGISTRY, Plane.ATTACH) and not worker.loop.is_draining:
            self.directory.register(worker.info, ttl_s=_TTL_S)

    def _is_gone(self, worker: SimWorker) -> None:
        """Its supervisor starts another life."""
        if self.workers.get(worker.plan.name) is worker:
            del self.workers[worker.plan.name]
        self.num_restarts += 1
        self.world.after(self.world.rng.choice((0.1, 0.5, 3.0, 8.0)), partial(self.start_worker, worker.plan))

    def lose_power(self, worker: SimWorker) -> None:
        """Kill a worker with its machine."""
        worker.process.lose_power()
        self.workers.pop(worker.plan.name, None)
        self.dead[worker.plan.name] = worker.process
        self.world.after(self.world.rng.uniform(1.0, 25.0), partial(self.start_worker, worker.plan))

    def leave(self, worker: SimWorker) -> None:
        """The time of a drain is over: what still runs is handed over, then the worker ends in order."""
        if worker.process.is_alive:
            self.directory.deregister(worker.info.worker_id, worker.epoch)
            worker.loop.hand_over()
            worker.process.after(0.2, worker.process.kill)

    def crash_router(self) -> None:
        """Kill the router; its callers see a broken connection; another one starts."""
        for caller in self.callers:
            if caller.outcome is None and not caller.router_was_lost:
                caller.router_was_lost = True
                caller.check_tokens()
        self.router.process.kill()
        self.router = self._start_router()

    def _note_killed(self, role: Role, request_id: str) -> None:
        self.judge.killed_by_a_request(role)
        self._killed_by[request_id] = self._killed_by.get(request_id, 0) + 1
        if self._killed_by[request_id] > _MOST_KILLED:
            self.world.violation("poison", f"{request_id} killed {self._killed_by[request_id]} workers")

    # --- callers ---------------------------------------------------------------------------------------------------

    def ask(self, ask: Ask) -> None:
        """A caller asks the present router."""
        self.router.process.call(partial(self._ask, ask))

    def _ask(self, ask: Ask) -> None:
        router, world = self.router, self.world
        now_s = router.process.clock.now_s()
        caller = Caller(world, ask, router.dispatcher)
        caller.on_end = partial(world.after, _FREED_WITHIN_S, partial(self._check_freed, caller))
        self.callers.append(caller)
        task = ask.task
        world.note(
            "client",
            f"{caller.name} asks n={task.num_sequences} prompt={len(task.prompt_token_ids)} "
            f"max={task.stop.max_tokens} {task.priority} {ask.poison}",
        )
        deadline_s = None if ask.deadline_in_s is None else now_s + ask.deadline_in_s
        try:
            router.dispatcher.submit(task, caller, deadline_s=deadline_s, arrived_s=now_s)
        except TandemError as error:
            caller.end(Outcome.SHED, error)
            return
        if ask.cancel_in_s is not None:
            router.process.after(ask.cancel_in_s, partial(self._cancel, router, caller))
        if ask.deadline_in_s is not None:
            limit_s = (ask.deadline_in_s + _GRACE_S) / router.process.clock.rate
            world.after(limit_s, partial(self._check_deadline, caller))

    def _cancel(self, router: SimRouter, caller: Caller) -> None:
        if not caller.is_over:
            self.world.hit("client_cancel")
            router.dispatcher.cancel(caller.ask.task.request_id)
            if not caller.is_over:
                self.world.violation("hang", f"{caller.name} was cancelled and has not ended")

    def _check_deadline(self, caller: Caller) -> None:
        if not caller.is_over:
            self.world.violation("hang", f"{caller.name} is past its deadline by {_GRACE_S} s and has not ended")

    def _check_freed(self, caller: Caller) -> None:
        """The request is over: whoever could be told has let go of it."""
        router = self.router.process
        for name, worker in sorted(self.workers.items()):
            process = worker.process
            is_told = (
                process.paused_since_s is None
                and self.world.now_s - process.resumed_at_s > _FREED_WITHIN_S
                and self.network.is_well(router.name, name, Plane.ATTACH, for_s=_FREED_WITHIN_S)
            )
            held = [key for key in worker.outbox.open_attempts() if key.request_id == caller.name]
            if is_told and held:
                self.world.violation("freed", f"{name} still runs {held} {_FREED_WITHIN_S} s after the request ended")

    # --- reckoning -------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """Every fault is over, power is back, and supervisors wait no longer."""
        self.network.mangle = None
        self.network.heal_all()
        for worker in list(self.workers.values()):
            worker.process.resume()
            worker.beats_are_lost = False
            worker.faults.clear()
        for plan in self.plan.workers:
            if plan.name not in self.workers:
                self.world.after(self.world.rng.uniform(0.1, 3.0), partial(self.start_worker, plan))

    def is_quiet(self) -> bool:
        """Everybody has an answer and nothing is held anywhere."""
        return (
            len(self.workers) == len(self.plan.workers)
            and all(caller.is_over for caller in self.callers)
            and not self.leftovers()
        )

    def leftovers(self) -> list[str]:
        """What is still held, by process."""
        problems = [f"{ROUTER}: {problem}" for problem in self.router.leftovers()]
        for name, worker in sorted(self.workers.items()):
            problems += [f"{name}: {problem}" for problem in worker.leftovers()]
        return problems

    def _is_served(self, probe: Caller) -> bool:
        return probe.outcome is Outcome.OK or is_queue_too_long(probe, self.callers, self.plan)

    def reckon(self) -> None:
        """The run is over: judge what is left."""
        world = self.world
        for caller in self.callers:
            if not caller.is_over:
                world.violation("hang", f"{caller.name} has not ended")
            elif caller.ask.is_probe and not self._is_served(caller):
                world.violation(
                    "recovery", f"{caller.name}, asked after the faults, ended {caller.outcome} {caller.reason}"
                )
        for problem in self.leftovers():
            world.violation("leak", problem)
        for caller in self.callers:
            if caller.outcome is Outcome.DEADLINE:
                world.hit("deadline")
