"""Workers as Ray's driver sees them: that run, are being added, or leave. No call needs Ray's head."""

import time
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.placement_group import PlacementGroup

from tandem.cluster.processes.lifeline import report
from tandem.cluster.programs.config import PlacedWorker


class RayWorker:
    """One actor: at most one ping is under way."""

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
        except RayError:  # its process has died: Ray is starting the next, or waits for a place or its head to do so
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


class AddedWorker:
    """An order to add one, until Ray's head has carried it out."""

    def __init__(self, placed: PlacedWorker) -> None:
        self.placed = placed
        self.name = placed.program.worker_id
        self.is_wanted = True  # until it is removed, which may be before Ray has made it
        self.made: RayWorker | None = None
        self.problem = ""


class LeavingWorker:
    """A worker that drains and is ended then."""

    def __init__(self, worker: RayWorker, *, grace_s: float) -> None:
        self.worker = worker
        self._stopping = worker.actor.stop.remote(grace_s) if worker.is_ready else None
        self._until_s = time.monotonic() + grace_s

    def is_over(self) -> bool:
        """Whether it has drained, died or had its time."""
        if self._stopping is None or time.monotonic() >= self._until_s:
            return True
        try:
            ray.get(self._stopping, timeout=0)
        except GetTimeoutError:
            return False
        except RayError:
            return True
        return True
