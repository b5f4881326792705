"""A real Ray of several nodes: the controller's actor runs only where its files are, and moves with them."""

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest
import ray

from tandem.cluster.programs.config import ControllerProgramConfig, RegistryTarget
from tandem.cluster.runtime.ray_controller import ACTOR_NAME
from tandem.cluster.runtime.ray_controller_host import ControllerHost
from tandem.cluster.runtime.ray_head_calls import HeadCalls
from tests.fakes.ray_nodes import RayNodes

T = TypeVar("T")

RESOURCE = "tandem_router"
PROGRAM = ControllerProgramConfig(
    registry=RegistryTarget(kind="router", address="127.0.0.1:9"), routers=["127.0.0.1:9"], ray_resource=RESOURCE
)
_HERE = f'{{"{RESOURCE}": 1}}'


@pytest.fixture
def rays() -> Iterator[RayNodes]:
    """A head with room for the actor; the driver is beside it."""
    with RayNodes(has_token=False) as rays:
        rays.start_head(num_cpus=1)
        rays.wait_up("head")
        try:
            ray.init(
                address=rays.address,
                namespace="placement",
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=str(rays.folder("head")),
            )
            yield rays
        finally:
            ray.shutdown()


def _start_home(rays: RayNodes, name: str) -> str:
    """Start a node that offers the resource; return its id once it is the one node that does."""
    rays.start_node(name, num_cpus=1, resources=_HERE)
    rays.wait_up(name)

    def the_only_one() -> str | None:
        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        homes = [str(node["NodeID"]) for node in nodes if node["Alive"] and RESOURCE in node["Resources"]]
        return homes[0] if len(homes) == 1 else None

    return _until(the_only_one, "Ray knows of the node, and that the one before is gone")


def _pings(host: ControllerHost) -> int | None:
    """The pid of the actor, once it answers."""
    host.look()
    try:
        answer: Any = ray.get(ray.get_actor(ACTOR_NAME).ping.remote(), timeout=1.0)
        return int(answer["pid"])
    except (ValueError, ray.exceptions.RayError):
        return None


def _until(found: Callable[[], T | None], what: str, *, timeout_s: float = 60.0) -> T:
    end_s = time.monotonic() + timeout_s
    while True:
        value = found()
        if value is not None:
            return value
        assert time.monotonic() < end_s, what
        time.sleep(0.1)


def _require_only_on(node: str) -> None:
    """Ray's list lags a little behind what the actor itself has answered."""

    def is_so() -> bool | None:
        actors: dict[str, Any] = ray._private.state.actors()
        nodes = [str(each["Address"]["NodeID"]) for each in actors.values() if each["State"] == "ALIVE"]
        return True if nodes == [node] else None

    _until(is_so, f"one actor lives, on {node}")


@pytest.mark.timeout(360)  # the sum of the deadlines below; on an idle machine it takes a tenth
def test_it_waits_for_its_node_runs_there_moves_with_it_and_gives_way_to_the_next_drivers(rays: RayNodes) -> None:
    calls = HeadCalls()
    host = ControllerHost(calls)
    host.want(PROGRAM, log_file="")
    host.look()
    assert calls.finish(30.0), "Ray's head has taken the order"
    time.sleep(2.0)
    assert _pings(host) is None, "the head has room and not its files"

    home = _start_home(rays, "home")
    first = _until(lambda: _pings(host), "it runs once its node is there")
    _require_only_on(home)

    rays.kill("home")
    next_home = _start_home(rays, "next")

    def moved() -> int | None:
        pid = _pings(host)
        return pid if pid not in (None, first) else None

    second = _until(moved, "Ray starts it again on the node that took the first one's place")
    _require_only_on(next_home)

    # A driver that was killed has left it: the next one's order must not stumble over the name.
    next_calls = HeadCalls()
    next_host = ControllerHost(next_calls)
    next_host.want(PROGRAM, log_file="")

    def replaced() -> int | None:
        pid = _pings(next_host)
        return pid if pid not in (None, second) else None

    _until(replaced, "the next driver's controller replaces it")
    _require_only_on(next_home)
    next_host.end()
    assert next_calls.finish(30.0)
