"""What the controller sees in one round: workers, traffic, what was measured. Values only."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tandem.core.ids import Epoch, WorkerId
from tandem.core.latency import LatencyModel
from tandem.core.types import PriorityClass, Role, WorkerLoad


@dataclass(frozen=True, slots=True, kw_only=True)
class Now:
    """One moment on two clocks: the monotonic one for waiting, the wall clock for schedules and seasons."""

    monotonic_s: float
    unix_s: float


class Stage(StrEnum):
    """Where a worker is in its life."""

    STARTING = "starting"  # ordered, not serving yet: counts as capacity that comes
    SERVING = "serving"
    DRAINING = "draining"
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSeen:
    """One worker."""

    worker_id: WorkerId
    epoch: Epoch
    role: Role
    stage: Stage
    load: WorkerLoad = field(default_factory=WorkerLoad)
    died_as: Role | None = None  # the role of its life before this one, where it came back in another


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestShape:
    """The size of one recent request. Shapes, not their means, are kept: two humps have no useful mean."""

    new_tokens: int  # of the prompt, not cached
    cached_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassTraffic:
    """What one class of requests asked for and got in the last window."""

    arrivals_per_s: float
    shapes: tuple[RequestShape, ...]  # of those that came last, each as likely as the other
    arrival_scv: float = 1.0  # squared coefficient of variation of the gaps between arrivals; 1 = Poisson
    num_ended: int = 0  # requests that the shares below speak of
    kept: Mapping[str, float] = field(default_factory=dict)  # share that kept the target, by objective ("ttft", …)
    attainment: float | None = None  # share that kept every target
    is_new_rate: bool = False  # it changed lately, by more than chance: what was learnt before tells nothing of it
    rate_error_per_s: float = 0.0  # standard error of ``arrivals_per_s``: what chance alone makes of it
    missed_now: float = 0.0  # share of the latest requests that missed a target, disturbed or not
    num_latest: int = 0  # requests that this share speaks of
    num_open: int = 0  # requests under way
    left_tokens: float = 0.0  # output tokens that they are expected to write yet


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One round's view. ``measured_s`` is the age of its oldest part, on the monotonic clock."""

    measured_s: float
    workers: tuple[WorkerSeen, ...]
    traffic: Mapping[PriorityClass, ClassTraffic]
    prefill_model: LatencyModel  # of a prefill worker
    decode_model: LatencyModel  # of a decode worker
    max_sequences: int  # slots of one decode worker
    kv_tokens: int  # tokens of KV that one decode worker holds
    backlog_s: float = 0.0  # predicted prefill time of everything that waits, in the router and in workers
    prefill_busy: float = 0.0  # share of the time in which prefill workers computed

    def problem(self) -> str:
        """Return why these numbers can't be believed; empty = they can."""
        plain = {
            "measured_s": self.measured_s,
            "backlog_s": self.backlog_s,
            "prefill_busy": self.prefill_busy,
            "max_sequences": self.max_sequences,
            "kv_tokens": self.kv_tokens,
        }
        for priority, traffic in self.traffic.items():
            plain[f"{priority.value} arrivals_per_s"] = traffic.arrivals_per_s
            plain[f"{priority.value} arrival_scv"] = traffic.arrival_scv
            plain[f"{priority.value} rate_error_per_s"] = traffic.rate_error_per_s
            plain[f"{priority.value} missed_now"] = traffic.missed_now
            plain[f"{priority.value} num_open"] = traffic.num_open
            plain[f"{priority.value} left_tokens"] = traffic.left_tokens
        for model in (self.prefill_model.coefficients, self.decode_model.coefficients):
            for number in (*model.prefill, *model.step):
                if not math.isfinite(number) or number < 0:
                    return f"a latency coefficient is {number}"
        for name, value in plain.items():
            if not math.isfinite(value) or (value < 0 and name != "measured_s"):
                return f"{name} is {value}"
        return "" if self.workers else "no worker was seen"

    def count(self, role: Role, *stages: Stage) -> int:
        """Return how many workers of a role are in one of ``stages``."""
        return sum(1 for worker in self.workers if worker.role is role and worker.stage in stages)
