"""The driver's side of the controller's actor: where it may run, and that there is one of it. Blocking code.

It reads a policy file and certificates, which not every node of a foreign Ray holds. It may therefore run only where a
named custom resource is offered; without one, Ray prefers the driver's own node.
"""

import time
from typing import Any

import ray
import structlog
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tandem.cluster.programs.config import ControllerProgramConfig
from tandem.cluster.runtime.ray_controller import ACTOR_NAME, ControllerActor
from tandem.cluster.runtime.ray_head_calls import HeadCalls

_log = structlog.get_logger(__name__)
_PING_S = 30.0
_END_S = 5.0
_SLIVER = 0.001  # of the custom resource: it says where, and is never used up


class ControllerHost:
    """Owns the actor. Use `want`, then `look` again and again, then `end`. Waits for nothing."""

    def __init__(self, head: HeadCalls) -> None:
        self._head = head
        self._wanted: ControllerProgramConfig | None = None
        self._is_making = False
        self._log_file = ""
        self._actor: Any = None
        self._ping: Any = None
        self._next_ping_s = 0.0
        self._told = ""

    def want(self, program: ControllerProgramConfig, *, log_file: str) -> None:
        """Take the order; it is carried out with the next look."""
        self._wanted, self._log_file = program, log_file

    def look(self) -> None:
        """Make the actor if it is not there yet; now and then tell it that we live, and our log how it fares."""
        if self._wanted is not None and self._actor is None and not self._is_making:
            self._is_making = True
            self._head.do("make the controller", self._make)
        if self._actor is not None and time.monotonic() >= self._next_ping_s:
            self._next_ping_s = time.monotonic() + _PING_S
            self._tell(self._answer())
            self._ping = self._actor.ping.remote()

    def end(self) -> None:
        """End it for good: what it does now, which needs the actor alone, and the actor, by Ray's head. Idempotent."""
        self._wanted = None
        if self._actor is not None:
            self._actor.stop.remote(_END_S)
        self._head.do("end the controller", self._kill)

    def _kill(self) -> None:
        actor, self._actor = self._actor, None
        if actor is not None:
            ray.kill(actor, no_restart=True)

    def _make(self) -> None:
        """Make it. A detached one of a driver that was killed has that one's addresses, and must go first."""
        try:
            program = self._wanted
            if program is not None and self._actor is None and self._is_name_free():
                self._actor = self._made(program)
        finally:
            self._is_making = False  # where the name was not free yet, a later look tries again

    def _is_name_free(self) -> bool:
        try:
            predecessor = ray.get_actor(ACTOR_NAME)
        except ValueError:
            return True
        _log.info("controller_replaced")
        ray.kill(predecessor, no_restart=True)
        return False  # Ray frees the name by the time of a later look

    def _made(self, program: ControllerProgramConfig) -> Any:
        return (
            ray.remote(ControllerActor)
            .options(
                name=ACTOR_NAME,
                lifetime="detached",
                max_restarts=-1,
                max_concurrency=4,
                num_cpus=0,
                **_place(program.ray_resource),
            )
            .remote(program.model_dump_json(), log_file=self._log_file)
        )

    def _answer(self) -> str:
        """Return what is wrong with it, by its answer to the ping before; empty = nothing."""
        if self._ping is None:
            return ""
        try:
            return str(ray.get(self._ping, timeout=0)["failure"])
        except GetTimeoutError:
            return "no answer: is there a node where it may run?"
        except RayActorError:
            return "its process died, and Ray is starting the next"
        except RayError as error:
            return f"{type(error).__name__}: Ray does not place it"

    def _tell(self, problem: str) -> None:
        if problem and problem != self._told:
            _log.warning("controller_not_well", problem=problem)
        self._told = problem


def _place(resource: str | None) -> dict[str, Any]:
    if resource is not None:
        return {"resources": {resource: _SLIVER}}
    here = ray.get_runtime_context().get_node_id()
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(here, soft=True)}
