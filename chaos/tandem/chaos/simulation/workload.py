"""What callers ask: random arrivals, tenants, lengths around block edges, children, sampling, deadlines, cancels."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tandem.chaos.simulation.client import Ask
from tandem.chaos.simulation.model import (
    BLOCK_SIZE,
    POISON_EXIT,
    POISON_NAN,
    POISON_OOM,
    POISON_RAISE,
)
from tandem.core.ids import RequestId, Tenant
from tandem.core.types import GenerationTask, PriorityClass, SamplingParams, StopParams

_PLAIN_TOKENS = 56
_POISONS = {"exit": POISON_EXIT, "raise": POISON_RAISE, "nan": POISON_NAN, "oom": POISON_OOM}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadPlan:
    """How a run's callers are."""

    per_s: float
    cancel_share: float
    deadline_share: float
    slow_share: float
    poison_share: float
    poisons: tuple[str, ...]
    num_tenants: int
    most_prompt_blocks: int
    most_output: int
    smallest_pool: int  # blocks
    burst: int  # requests that come at once
    prompts_begin_alike: bool = False


def draw_asks(rng: random.Random, plan: WorkloadPlan, *, begin_s: float, end_s: float) -> Iterator[Ask]:
    """Yield requests in the order of their times."""
    at_s = begin_s
    number = 0
    while True:
        at_s += rng.expovariate(plan.per_s / plan.burst)
        if at_s >= end_s:
            return
        for _ in range(plan.burst):
            yield draw_ask(rng, plan, at_s=at_s, name=f"r{number}")
            number += 1


def draw_ask(rng: random.Random, plan: WorkloadPlan, *, at_s: float, name: str, is_probe: bool = False) -> Ask:
    """Return one request."""
    blocks = rng.randint(0, plan.most_prompt_blocks)
    num_prompt = max(1, blocks * BLOCK_SIZE + rng.choice((-1, 0, 1)))
    prompt = [rng.randrange(_PLAIN_TOKENS) for _ in range(num_prompt)]
    if plan.prompts_begin_alike:
        alike = prompt[0] * num_prompt // _PLAIN_TOKENS  # no further draw: the same seed asks the same without caches
        prompt[:alike] = range(alike)
    poison = ""
    if not is_probe and rng.random() < plan.poison_share:
        poison = rng.choice(plan.poisons)
        prompt[-1] = _POISONS[poison]
    is_sampled = rng.random() < 0.4
    num_sequences = rng.choice((1, 1, 1, 2, 3))
    max_tokens = rng.choice((1, 2, BLOCK_SIZE, rng.randint(1, plan.most_output), plan.most_output))
    while num_sequences > 1 and num_sequences * -(-(num_prompt + max_tokens) // BLOCK_SIZE) > plan.smallest_pool:
        num_sequences -= 1  # else no decode worker could ever hold all of them
    task = GenerationTask(
        request_id=RequestId(name),
        attempt=0,
        tenant=Tenant(f"tenant-{rng.randrange(plan.num_tenants)}"),
        prompt_token_ids=tuple(prompt),
        num_sequences=num_sequences,
        sampling=SamplingParams(temperature=0.8, seed=rng.getrandbits(32)) if is_sampled else SamplingParams(),
        stop=StopParams(
            max_tokens=max_tokens,
            ignore_eos=rng.random() < 0.3,
        ),
        priority=rng.choice(list(PriorityClass)),
    )
    if is_probe:
        # A batch request may be refused for a second after heavy load: that is as meant, and no lack of recovery.
        urgent = PriorityClass.STANDARD if task.priority is PriorityClass.BATCH else task.priority
        return Ask(task=replace(task, priority=urgent), at_s=at_s, is_probe=True)
    return Ask(
        task=task,
        at_s=at_s,
        deadline_in_s=rng.choice((0.02, 0.2, 1.0, 5.0, 20.0)) if rng.random() < plan.deadline_share else None,
        cancel_in_s=rng.choice((0.0, 0.01, 0.05, 0.2, 1.0, 4.0)) * rng.random()
        if rng.random() < plan.cancel_share
        else None,
        reads_per_s=rng.choice((0.0, 1.0, 20.0)) if rng.random() < plan.slow_share else None,
        poison=poison,
    )
