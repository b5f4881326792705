"""The part of Ray that our driver uses, in plain Python, with a head that can be away."""

import threading
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.autoscaler.sdk
from ray.exceptions import GetTimeoutError

from tandem.cluster.config.model import ClusterConfig
from tandem.cluster.plan import plan_workers
from tandem.cluster.programs.config import (
    ControllerProgramConfig,
    PlacedWorker,
    RayOrder,
    RayProgramConfig,
    RegistryTarget,
)
from tandem.cluster.runtime import ray_driver
from tandem.cluster.runtime.ray_driver import RayDriver
from tests.unit.cluster.test_plan import MODEL

READY = {"pid": 11, "epoch": "7", "ready": True, "detail": "ready", "failure": None}
LOADING = {**READY, "epoch": "", "ready": False, "detail": "loading"}


CONTROLLER = ControllerProgramConfig(registry=RegistryTarget(kind="router"), routers=["127.0.0.1:1"])


class Late:
    """An answer that comes only when it is asked for the third time."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer
        self._num_asked = 0

    def get(self) -> Any:
        """Return it, or raise as Ray does."""
        self._num_asked += 1
        if self._num_asked < 3:
            raise GetTimeoutError
        return self._answer


class Method:
    """A remote method: calling it gives its answer as the reference."""

    def __init__(self, answers: list[Any], calls: list[Any]) -> None:
        self._answers = answers
        self._calls = calls

    def remote(self, *arguments: Any) -> Any:
        """Return the next answer; the last one is given for ever."""
        self._calls.append(arguments)
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


class Actor:
    """One actor with planned answers to its pings."""

    def __init__(self, answers: list[Any]) -> None:
        self.stopped: list[Any] = []
        self.ping = Method(answers, [])
        self.stop = Method([True], self.stopped)


def kind_of(name: str) -> str:
    """A worker's own name within that of its actor, which is used once."""
    return name.split(".")[1] if "." in name else name


class FakeRay:
    """The part of Ray that the driver uses."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.init_options: dict[str, Any] = {}
        self.actor_options: list[dict[str, Any]] = []
        self.actors: list[Actor] = []
        self.answers: dict[str, list[Any]] = {}
        self.killed: list[Actor] = []
        self.bundles: list[dict[str, float]] = []
        self.group_names: list[str] = []
        self.places = True
        self.group_removed = False
        self.num_groups_removed = 0
        self.requested: list[list[dict[str, float]]] = []
        self.is_up = False
        self.predecessors: list[Actor] = []
        self.head_is_there = threading.Event()  # calls that need Ray's head wait for it, once the cluster is up
        self.head_is_there.set()
        for name, fake in {
            "init": self._init,
            "is_initialized": lambda: self.is_up,
            "get": self._get,
            "wait": lambda refs, num_returns, timeout: (refs, []),
            "kill": self._kill,
            "shutdown": self._shutdown,
            "remote": self._remote,
            "get_actor": self._named,
            "get_runtime_context": lambda: self,
            "available_resources": lambda: {"CPU": 1.0},
        }.items():
            monkeypatch.setattr(ray, name, fake)
        monkeypatch.setattr(ray_driver, "placement_group", self._group)
        monkeypatch.setattr(ray.util, "remove_placement_group", self._remove_group)
        monkeypatch.setattr(ray_driver, "_POLL_S", 0.001)
        monkeypatch.setattr(ray.autoscaler.sdk, "request_resources", self._request)

    def get_node_id(self) -> str:
        """As a runtime context: where the driver is."""
        return "ab" * 28

    def _named(self, name: str) -> Actor:
        if not self.predecessors:
            raise ValueError(name)
        return self.predecessors.pop(0)

    def wait(self, timeout_seconds: float) -> bool:
        """As a placement group: is it placed?"""
        return self.places

    def need_head(self) -> None:
        assert self.head_is_there.wait(10.0), "nobody brought the head back"

    def _kill(self, actor: Actor, *, no_restart: bool) -> None:
        self.need_head()
        self.killed.append(actor)

    def _request(self, *, bundles: list[dict[str, float]]) -> None:
        self.need_head()
        self.requested.append(bundles)

    def _remove_group(self, group: object) -> None:
        self.need_head()
        self.group_removed = True
        self.num_groups_removed += 1

    def _init(self, **options: Any) -> None:
        self.init_options, self.is_up = options, True

    def _shutdown(self) -> None:
        self.is_up = False

    def _get(self, answer: Any, timeout: float) -> Any:
        if isinstance(answer, Late):
            return answer.get()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _group(self, bundles: list[dict[str, float]], *, strategy: str, name: str) -> "FakeRay":
        self.need_head()
        self.bundles = bundles
        self.group_names.append(name)
        return self

    def _remote(self, kind: type) -> "FakeRay":
        fake = self

        class Made:
            """What `ray.remote(...)` returns."""

            def options(self, **options: Any) -> "Made":
                """Note them."""
                fake.actor_options.append(options)
                return self

            def remote(self, *arguments: Any, **named: Any) -> Actor:
                """Make the actor."""
                actor = Actor(list(fake.answers.get(kind_of(fake.actor_options[-1]["name"]), [READY])))
                fake.actors.append(actor)
                return actor

        return Made()  # type: ignore[return-value]


def program(*, address: str | None = None, start_timeout_s: float = 5.0) -> RayProgramConfig:
    config = ClusterConfig.model_validate({"model": {"source": "x"}, "engine": {"num_threads": 3}})
    workers = plan_workers(config, MODEL, RegistryTarget(kind="router"))
    return RayProgramConfig(
        address=address,
        namespace="ns",
        workers=[PlacedWorker(program=worker, cpus=1.5, gpus=0.5) for worker in workers],
        temp_folder=Path("/t"),
        log_folder=Path("/l"),
        start_timeout_s=start_timeout_s,
        stop_timeout_s=2.0,
    )


def extra(name: str = "decode-9") -> PlacedWorker:
    placed = program().workers[1]
    return placed.model_copy(update={"program": placed.program.model_copy(update={"worker_id": name})})


def carried_out(driver: RayDriver, *orders: RayOrder) -> None:
    for order in orders:
        driver.order(order.model_dump_json())
    for _ in range(3):
        driver._poll()
        assert driver._head.finish(5.0)
    driver._poll()
