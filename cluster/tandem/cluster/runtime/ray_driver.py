"""What Tandem asks of Ray: one placement group, and in it one restarting actor per worker. Blocking code.

Workers that are ordered later get a placement group of one bundle each, since groups can't grow; before that Ray's
autoscaler is asked for room.

Once the cluster is up nothing here waits for Ray's head: it may be away, and workers are watched and drained all the
same.
"""

import math
import queue
import secrets
import threading
import time
from typing import Any

import ray
import ray.autoscaler.sdk
import structlog
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from tandem.cluster.processes.failure import setup_error
from tandem.cluster.processes.lifeline import report
from tandem.cluster.programs.config import PlacedWorker, RayOrder, RayProgramConfig
from tandem.cluster.runtime.ray_actor import WorkerActor
from tandem.cluster.runtime.ray_address import require_listener
from tandem.cluster.runtime.ray_controller_host import ControllerHost
from tandem.cluster.runtime.ray_head_calls import HeadCalls
from tandem.cluster.runtime.ray_workers import AddedWorker, LeavingWorker, RayWorker
from tandem.core.environment import worker_variables
from tandem.core.errors import EnvironmentProblem

_log = structlog.get_logger(__name__)
_POLL_S = 0.1
_PLACE_S = 60.0
_HEAD_S = 5.0  # how long an end waits for Ray's head, which does the rest by itself when it comes back
_ROOM_CPUS = 1024  # what a Ray of our own promises beyond the plan, when workers may be ordered
_OBJECT_STORE_BYTES = 80 << 20  # nothing of ours goes through it; this is about the least that Ray takes


class Stopped(Exception):  # not an error: the parent wants the end
    """The lifeline ended during the start."""


class RayDriver:
    """Owns the actors, and the Ray instance if it started one. Use `start`, then `watch`, then always `stop`."""

    def __init__(self, config: RayProgramConfig, ended: threading.Event) -> None:
        self._config = config
        self._ended = ended
        self._group: PlacementGroup | None = None
        self._workers: list[RayWorker] = []
        self._adding: list[AddedWorker] = []
        self._leaving: list[LeavingWorker] = []
        self._head = HeadCalls()
        self._controller = ControllerHost(self._head)
        self._orders: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._has_asked = False  # the autoscaler

    def start(self) -> None:
        """Bring Ray and all workers up. Raises SetupError, or Stopped when the lifeline ends first."""
        report("status", worker="ray", detail="starting" if self._config.address is None else "joining")
        self._connect()
        group = self._group = self._reserve()
        self._workers = [
            RayWorker(placed, self._make_actor(placed, group, bundle))
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
        """Drain all workers at once, end them, give the bundles back, leave Ray.

        Draining needs the workers alone. The rest is left undone while Ray's head is away: it ends what this process
        owned when it comes back and finds it gone, and Ray's nodes do when they give the head up.
        """
        if not ray.is_initialized():
            return
        grace_s = self._config.stop_timeout_s
        self._controller.end()  # first: it must not order what is ending
        try:
            stopping = [worker.actor.stop.remote(grace_s) for worker in self._workers if worker.is_ready]
            if stopping:
                ray.wait(stopping, num_returns=len(stopping), timeout=grace_s)
        except RayError:
            _log.warning("ray_stop_failed", exc_info=True)
        for addition in self._adding:
            addition.is_wanted = False
        for worker in [*self._workers, *(each.worker for each in self._leaving)]:
            self._end(worker)
        if self._group is not None:
            group = self._group
            self._head.do("give the bundles back", lambda: ray.util.remove_placement_group(group))
        self._ask_for_room([])
        if not self._head.finish(_HEAD_S):
            _log.warning("ray_head_away", left_to_it="actors and bundles of this cluster")
            return  # leaving Ray would wait for the head as well; the end of this process is seen by its node
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
                "resources": config.own_resources,
                "include_dashboard": False,
                "object_store_memory": _OBJECT_STORE_BYTES,
                "_temp_dir": str(config.temp_folder),
            }
        try:
            if config.address is not None:
                require_listener(config.address)
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
        group: PlacementGroup = placement_group(bundles, strategy=self._config.placement, name=self._unique("plan"))
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
            "name": self._unique(placed.program.worker_id),
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

    def _unique(self, name: str) -> str:
        """For people who list Ray's actors and groups. A name is free again only some time after its owner's end."""
        return f"{self._config.namespace}.{name}.{secrets.token_hex(4)}"

    def _follow(self, order: RayOrder) -> None:
        if order.add is not None:
            self._add(order.add)
        if order.remove is not None:
            self._remove(order.remove)
        if order.controller is not None:
            remote = self._config.address is not None
            self._controller.want(
                order.controller, log_file="" if remote else str(self._config.log_folder / "controller.log")
            )

    def _add(self, placed: PlacedWorker) -> None:
        name = placed.program.worker_id
        if name in {worker.name for worker in self._workers} | {addition.name for addition in self._wanted()}:
            return
        addition = AddedWorker(placed)
        self._adding.append(addition)
        self._ask_for_room(self._wanted_room())
        self._head.do(f"add {name}", lambda: self._make_added(addition))

    def _make_added(self, addition: AddedWorker) -> None:
        """Make its group and its actor. In the thread of the head's calls."""
        placed, group = addition.placed, None
        if not addition.is_wanted:
            addition.problem = "it was removed before Ray made it"
            return
        try:
            group = placement_group([placed.bundle()], strategy="PACK", name=self._unique(addition.name))
            addition.made = RayWorker(placed, self._make_actor(placed, group, 0), own_group=group)
        except Exception as error:  # noqa: BLE001  # Ray raises many kinds; whoever ordered it is told and asks again
            addition.problem = f"Ray can't make it: {(str(error).strip().splitlines() or [''])[0]}"
            if group is not None:
                self._give_back(group)

    def _take_made(self) -> None:
        """Take over what Ray has made of the orders to add."""
        for addition in [each for each in self._adding if each.made is not None or each.problem]:
            self._adding.remove(addition)
            if addition.made is not None and addition.is_wanted:
                self._workers.append(addition.made)
            elif addition.made is not None:
                self._end(addition.made)
            elif addition.is_wanted:
                failure = {"problem": addition.problem, "remedy": "", "reason": EnvironmentProblem.reason}
                report("worker_failed", worker=addition.name, **failure)

    def _wanted(self) -> list[AddedWorker]:
        return [each for each in self._adding if each.is_wanted]

    def _wanted_room(self) -> list[PlacedWorker]:
        return [worker.placed for worker in self._workers] + [addition.placed for addition in self._wanted()]

    def _remove(self, name: str) -> None:
        for addition in [each for each in self._wanted() if each.name == name]:
            addition.is_wanted = False
            report("worker_ended", worker=name)
        for worker in [worker for worker in self._workers if worker.name == name]:
            self._workers.remove(worker)
            self._leaving.append(LeavingWorker(worker, grace_s=self._config.stop_timeout_s))

    def _end_leaving(self) -> None:
        for each in [each for each in self._leaving if each.is_over()]:
            self._leaving.remove(each)
            self._end(each.worker)
            self._ask_for_room(self._wanted_room())
            report("worker_ended", worker=each.worker.name)

    def _end(self, worker: RayWorker) -> None:
        """End an actor whose program has ended, and give back the group that is its own."""
        self._head.do(f"end {worker.name}", lambda: ray.kill(worker.actor, no_restart=True))
        if worker.own_group is not None:
            self._give_back(worker.own_group)

    def _give_back(self, group: PlacementGroup) -> None:
        self._head.do("give a bundle back", lambda: ray.util.remove_placement_group(group))

    def _ask_for_room(self, placed: list[PlacedWorker]) -> None:
        """Tell a foreign Ray's autoscaler what shall fit in, whatever is in use: each call replaces the one before."""
        if self._config.address is not None and (placed or self._has_asked):
            self._has_asked = True
            bundles = [each.bundle() for each in placed]
            self._head.do("ask for room", lambda: ray.autoscaler.sdk.request_resources(bundles=bundles))

    def _poll(self) -> None:
        while not self._orders.empty():
            self._follow(RayOrder.model_validate_json(self._orders.get()))
        self._take_made()
        for worker in self._workers:
            worker.poll()
        self._give_up_failed()
        self._end_leaving()
        self._controller.look()
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


def _free() -> dict[str, float]:
    return dict(ray.available_resources())  # type: ignore[no-untyped-call]


def _total(resources: list[dict[str, float]]) -> str:
    total = {kind: sum(entry.get(kind, 0.0) for entry in resources) for kind in ("CPU", "GPU")}
    return ", ".join(f"{amount:g} {kind}" for kind, amount in total.items() if amount or kind == "CPU")
