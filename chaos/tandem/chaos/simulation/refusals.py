"""Which refusals are meant, where every request must be answered: in runs without faults, and after the faults.

Without faults, batch work for several sequences may hear "not now" from a full cluster. After the faults, a request may
find a queue that is longer than its class waits. Both are judged by what callers asked and when they had their answers,
not by what the router believed.
"""

from collections.abc import Sequence
from typing import Final

from tandem.chaos.simulation.client import Caller
from tandem.chaos.simulation.model import BLOCK_SIZE
from tandem.chaos.simulation.plan import ClusterPlan
from tandem.core.types import Outcome, PriorityClass, Role

_BROWN_OUT: Final = "BROWN_OUT"
_QUEUE_FULL: Final = "QUEUE_FULL"
_FULL: Final = 0.85  # what the router calls full, less its hysteresis
_REMEMBERED_S: Final = 10.0  # the router's load level is smoothed over 2 s


def refused_for_nothing(callers: Sequence[Caller], plan: ClusterPlan) -> list[Caller]:
    """Return the callers that had no answer and no good reason for that."""
    return [caller for caller in callers if caller.reason and not _is_browned_out(caller, callers, plan)]


def is_queue_too_long(caller: Caller, callers: Sequence[Caller], plan: ClusterPlan) -> bool:
    """Whether it was shed by a full queue, and whoever was there before it took longer than its class may wait."""
    if caller.outcome is not Outcome.SHED or caller.reason != _QUEUE_FULL:
        return False
    at_s = caller.ask.at_s
    bound_s = plan.router.queue.bounds().max_work_s[caller.ask.task.priority]
    last_s = max((c.ended_at_s or 0.0 for c in callers if c is not caller and c.ask.at_s <= at_s), default=0.0)
    return last_s - at_s > bound_s


def _is_browned_out(caller: Caller, callers: Sequence[Caller], plan: ClusterPlan) -> bool:
    """Whether it is batch work for several sequences, and the decode pool was asked for all it has a moment ago."""
    task = caller.ask.task
    is_meant = task.priority is PriorityClass.BATCH and task.num_sequences > 1
    if caller.outcome is not Outcome.SHED or caller.reason != _BROWN_OUT or not is_meant:
        return False
    to_s = caller.ask.at_s
    return most_demand(callers, plan, from_s=to_s - _REMEMBERED_S, to_s=to_s) >= _FULL


def most_demand(callers: Sequence[Caller], plan: ClusterPlan, *, from_s: float, to_s: float) -> float:
    """The most that callers wanted of the decode pool at any one time, over what it has; refused ones want nothing."""
    decodes = [worker for worker in plan.workers if worker.role is Role.DECODE]
    num_blocks = sum(worker.num_blocks for worker in decodes)
    num_slots = sum(worker.engine.max_sequences for worker in decodes)
    wanting = [caller for caller in callers if caller.outcome is not Outcome.SHED]
    most = 0.0
    for moment_s in (from_s, *(caller.ask.at_s for caller in wanting if from_s <= caller.ask.at_s <= to_s)):
        there = [c for c in wanting if c.ask.at_s <= moment_s and (c.ended_at_s is None or c.ended_at_s > moment_s)]
        blocks = sum(_blocks(caller) for caller in there)
        slots = sum(caller.ask.task.num_sequences for caller in there)
        most = max(most, blocks / num_blocks, slots / num_slots)
    return most


def _blocks(caller: Caller) -> int:
    task = caller.ask.task
    return task.num_sequences * -(-(len(task.prompt_token_ids) + task.stop.max_tokens) // BLOCK_SIZE)
