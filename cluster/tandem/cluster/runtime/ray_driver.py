"""What Tandem asks of Ray: one placement group, and in it one restarting actor per worker. Blocking code.

Workers that are ordered later get a placement group of one bundle each, since groups can't grow; before that Ray's
autoscaler is asked for room.
"""

import math
import queue
import threading
import time
from typing import Any

import ray
import ray.autoscaler.sdk
import structlog
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from ray.util.placement_group import PlacementGroup, placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from tandem.cluster.processes.failure import setup_error
from tandem.cluster.processes.lifeline import report
from tandem.cluster.programs.config import ControllerProgramConfig, PlacedWorker, RayOrder, RayProgramConfig
from tandem.cluster.runtime.ray_actor import WorkerActor
from tandem.cluster.runtime.ray_controller import ACTOR_NAME, ControllerActor
from tandem.core.environment import worker_variables
from tandem.core.errors import EnvironmentProblem

_log = structlog.get_logger(__name__)
_POLL_S = 0.1
_PLACE_S = 60.0
_ROOM_CPUS = 1024  # what a Ray of our own promises beyond the plan, when workers may be ordered
_PING_CONTROLLER_S = 30.0
_OBJECT_STORE_BYTES = 80 << 20  # nothing of ours goes through it; this is about the least that Ray takes


class Stopped(Exception):  # not an error: the parent wants the end
    """The lifeline ended during the start."""


class RayDriver:
    """Owns the actors, and the Ray instance if it started one. Use `start`, then `watch`, then always `stop`."""

    def __init__(self, config: RayProgramConfig, ended: threading.Event) -> None:
        self._config = config
        self._ended = ended
        self._group: PlacementGroup | None = None
        self._workers: list[_Worker] = []
        self._leaving: list[_Leaving] = []
        self._controller: Any = None
        self._next_ping_s = 0.0
        self._orders: queue.SimpleQueue[str] = queue.SimpleQueue()

    def start(self) -> None:
        """Bring Ray and all workers up. Raises SetupError, or Stopped when the lifeline ends first."""
        report("status", worker="ray", detail="starting" if self._config.address is None else "joining")
        self._connect()
        group = self._group = self._reserve()
        self._workers = [
            _Worker(placed, self._make_actor(placed, group, bundle))
            for bundle, placed in enumerate(self._config.workers)
        ]
        deadline_s = time.monotonic() + self._config.start_timeout_s
        while not all(worker.is_ready for worker in self._workers):
            self._poll()
            for worker in self._workers:
                if worker.failure is not None:
                    raise setup_error(worker.name, worker.failure, remedy="see the log of that worker")
            if time.monotonic() > deadline_s:
                late = ", ".join(worker.name for worker in self._workers if not worker.is_ready)
                raise EnvironmentProblem(
                    f"not ready after {self._config.start_timeout_s:g} s: {late}",
                    remedy="look at the workers' logs, or raise runtime.start_timeout_s",
                )

    def order(self, line: str) -> None:
        """Take an order of the supervisor; it is carried out with the next look. Any thread."""
        self._orders.put(line)

    def watch(self) -> None:
        """Return when the lifeline ends. Ray starts dead actors again by itself; this only tells about it."""
        while not self._ended.is_set():
            try:
                self._poll()
            except Stopped:
                return

    def stop(self) -> None:
        """Drain all workers at once, end them, give the bundles back, leave Ray."""
        if not ray.is_initialized():
            return
        grace_s = self._config.stop_timeout_s
        try:
            if self._controller is not None:  # first: it must not order what is ending
                ray.kill(self._controller, no_restart=True)
            stopping = [worker.actor.stop.remote(grace_s) for worker in self._workers if worker.is_ready]
            if stopping:
                ray.wait(stopping, num_returns=len(stopping), timeout=grace_s)
            for worker in [*self._workers, *(each.worker for each in self._leaving)]:
                ray.kill(worker.actor, no_restart=True)
                if worker.own_group is not None:
                    ray.util.remove_placement_group(worker.own_group)
            if self._group is not None:
                ray.util.remove_placement_group(self._group)
        except RayError:
            _log.warning("ray_stop_failed", exc_info=True)
        ray.shutdown()

    def _connect(self) -> None:
        config = self._config
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error", "namespace": config.namespace}
        if config.address is not None:
            options |= {"address": config.address}
        else:
            needed = math.ceil(sum(worker.cpus for worker in config.workers))
            options |= {
                "address": "local",
                "num_cpus": needed
                + (_ROOM_CPUS if config.may_scale else 0),  # a promise to our own placement group, not a measurement
                "include_dashboard": False,
                "object_store_memory": _OBJECT_STORE_BYTES,
                "_temp_dir": str(config.temp_folder),
            }
        try:
            ray.init(**options)
        except (ConnectionError, RayError, RuntimeError, ValueError, OSError, TimeoutError) as error:
            where = "start here" if config.address is None else f"be reached at {config.address}"
            words = str(error).strip().splitlines() or [type(error).__name__]
            raise EnvironmentProblem(
                f"Ray can't {where}: {words[0]}",
                remedy="`tandem doctor` looks at Ray; runtime.kind: local works without it",
            ) from error
        self._check_ended()

    def _reserve(self) -> PlacementGroup:
        bundles = [worker.bundle() for worker in self._config.workers]
        group: PlacementGroup = placement_group(
            bundles, strategy=self._config.placement, name=f"tandem-{self._config.namespace}"
        )
        deadline_s = time.monotonic() + min(_PLACE_S, self._config.start_timeout_s)
        while not group.wait(timeout_seconds=1):
            self._check_ended()
            if time.monotonic() > deadline_s:
                raise EnvironmentProblem(
                    f"Ray can't place {len(bundles)} workers ({_total(bundles)}) as {self._config.placement};"
                    f" it has {_total([_free()])} free",
                    remedy="lower pools.*.replicas, cpus or gpus, choose another runtime.placement, or add nodes",
                )
        return group

    def _make_actor(self, placed: PlacedWorker, group: PlacementGroup, bundle: int) -> Any:
        config = self._config
        options: dict[str, Any] = {
            "name": placed.program.worker_id,
            "num_cpus": placed.cpus,
            "num_gpus": placed.gpus,
            "max_restarts": -1,
            "max_concurrency": 4,  # a ping must be answered while a stop waits
            "scheduling_strategy": PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle),
        }
        if config.address is not None:  # a Ray of our own hands our environment on
            variables = worker_variables(num_threads=placed.program.engine.num_threads)
            options["runtime_env"] = {"env_vars": variables}
        log_file = "" if config.address is not None else str(config.log_folder / f"{placed.program.worker_id}.log")
        return (
            ray.remote(WorkerActor)
            .options(**options)
            .remote(
                placed.program.model_dump_json(),
                announce_node_address=config.announce_node_address,
                log_file=log_file,
            )
        )

    def _follow(self, order: RayOrder) -> None:
        if order.add is not None:
            self._add(order.add)
        if order.remove is not None:
            self._remove(order.remove)
        if order.controller is not None:
            self._host(order.controller)

    def _add(self, placed: PlacedWorker) -> None:
        name = placed.program.worker_id
        if any(worker.name == name for worker in self._workers):
            return
        bundles = [each.placed.bundle() for each in self._workers] + [placed.bundle()]
        if self._config.address is not None:
            ray.autoscaler.sdk.request_resources(bundles=bundles)
        group = placement_group([placed.bundle()], strategy="PACK", name=f"tandem-{self._config.namespace}-{name}")
        self._workers.append(_Worker(placed, self._make_actor(placed, group, 0), own_group=group))

    def _remove(self, name: str) -> None:
        for worker in [worker for worker in self._workers if worker.name == name]:
            self._workers.remove(worker)
            grace_s = self._config.stop_timeout_s
            stopping = worker.actor.stop.remote(grace_s) if worker.is_ready else None
            self._leaving.append(_Leaving(worker, stopping, until_s=time.monotonic() + grace_s))

    def _end_leaving(self) -> None:
        for each in [each for each in self._leaving if each.is_over()]:
            self._leaving.remove(each)
            ray.kill(each.worker.actor, no_restart=True)
            if each.worker.own_group is not None:
                ray.util.remove_placement_group(each.worker.own_group)
            if self._config.address is not None:
                ray.autoscaler.sdk.request_resources(bundles=[w.placed.bundle() for w in self._workers])
            report("worker_ended", worker=each.worker.name)

    def _host(self, program: ControllerProgramConfig) -> None:
        log_file = "" if self._config.address is not None else str(self._config.log_folder / "controller.log")
        self._controller = (
            ray.remote(ControllerActor)
            .options(name=ACTOR_NAME, lifetime="detached", max_restarts=-1, max_concurrency=4, num_cpus=0)
            .remote(program.model_dump_json(), log_file=log_file)
        )

    def _poll(self) -> None:
        while not self._orders.empty():
            self._follow(RayOrder.model_validate_json(self._orders.get()))
        for worker in self._workers:
            worker.poll()
        self._give_up_failed()
        self._end_leaving()
        if self._controller is not None and time.monotonic() >= self._next_ping_s:
            self._next_ping_s = time.monotonic() + _PING_CONTROLLER_S
            self._controller.ping.remote()  # nobody waits for the answer: it is how the actor knows that we live
        if self._ended.wait(_POLL_S):
            raise Stopped

    def _give_up_failed(self) -> None:
        """A worker that was ordered and can't start is told of and taken away; one of the plan fails the start."""
        for worker in [each for each in self._workers if each.own_group is not None and each.failure is not None]:
            report("worker_failed", worker=worker.name, **(worker.failure or {}))
            self._remove(worker.name)

    def _check_ended(self) -> None:
        if self._ended.is_set():
            raise Stopped


class _Worker:
    """One actor as the driver sees it: at most one ping is under way."""

    def __init__(self, placed: PlacedWorker, actor: Any, *, own_group: PlacementGroup | None = None) -> None:
        self.placed = placed
        self.own_group = own_group  # of a worker beyond the plan
        self.name = placed.program.worker_id
        self.actor = actor
        self.is_ready = False
        self.failure: dict[str, str] | None = None
        self._ping: Any = None
        self._pid: int | None = None
        self._num_restarts = 0
        self._told: tuple[object, ...] = ()

    def poll(self) -> None:
        """Take the answer of the last ping, if it has come, and ask again."""
        if self._ping is None:
            self._ping = self.actor.ping.remote()
        try:
            answer = ray.get(self._ping, timeout=0)
        except GetTimeoutError:
            return
        except RayActorError:  # its process has died: Ray is starting the next
            self._ping = None
            self.is_ready = False
            self._tell("restarting")
            return
        self._ping = None
        if self._pid not in (None, answer["pid"]):
            self._num_restarts += 1
        self._pid, self.is_ready, self.failure = answer["pid"], answer["ready"], answer["failure"]
        self._tell(answer["detail"])

    def _tell(self, detail: str) -> None:
        now = (self._pid, self.is_ready, self._num_restarts, detail)
        if now != self._told:
            self._told = now
            report(
                "worker",
                worker=self.name,
                pid=self._pid,
                running=self.is_ready,
                restarts=self._num_restarts,
                detail=detail,
            )


class _Leaving:
    """A worker that drains and is ended then."""

    def __init__(self, worker: _Worker, stopping: Any, *, until_s: float) -> None:
        self.worker = worker
        self._stopping = stopping
        self._until_s = until_s

    def is_over(self) -> bool:
        """Whether it has drained, died or had its time."""
        if self._stopping is None or time.monotonic() >= self._until_s:
            return True
        try:
            ray.get(self._stopping, timeout=0)
        except GetTimeoutError:
            return False
        except RayActorError:
            return True
        return True


def _free() -> dict[str, float]:
    return dict(ray.available_resources())  # type: ignore[no-untyped-call]


def _total(resources: list[dict[str, float]]) -> str:
    total = {kind: sum(entry.get(kind, 0.0) for entry in resources) for kind in ("CPU", "GPU")}
    return ", ".join(f"{amount:g} {kind}" for kind, amount in total.items() if amount or kind == "CPU")
