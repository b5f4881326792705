"""Many seeds over a few processes, and what they add up to."""

import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from tandem.chaos.simulation.faults import ALL_KINDS
from tandem.chaos.simulation.plan import Timeline
from tandem.chaos.simulation.run import SeedResult, run_seed

_CALM_EVERY = 10  # one seed in so many has no faults: its control


@dataclass(slots=True, kw_only=True)
class Sum:
    """What a campaign adds up to."""

    num_seeds: int = 0
    num_calm: int = 0
    simulated_s: float = 0.0
    num_requests: int = 0
    num_faulted_requests: int = 0  # of seeds with faults
    num_tokens: int = 0
    num_attempts: int = 0
    num_events: int = 0
    num_traced: int = 0
    cpu_s: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    hits: Counter[str] = field(default_factory=Counter)
    failed: list[SeedResult] = field(default_factory=list)

    def add(self, result: SeedResult) -> None:
        """Count one seed."""
        self.num_seeds += 1
        self.num_calm += is_calm(result.seed)
        self.simulated_s += result.simulated_s
        self.num_requests += result.num_requests
        self.num_faulted_requests += 0 if is_calm(result.seed) else result.num_requests
        self.num_tokens += result.num_tokens
        self.num_attempts += result.num_attempts
        self.num_events += result.num_events
        self.num_traced += result.num_traced
        self.cpu_s += result.cpu_s
        self.outcomes.update(result.outcomes)
        self.hits.update(result.hits)
        if result.violations:
            self.failed.append(result)

    def facts(self) -> dict[str, Any]:
        """The figures as plain values."""
        return {
            "seeds": self.num_seeds,
            "calm_seeds": self.num_calm,
            "violations": len(self.failed),
            "simulated_hours": round(self.simulated_s / 3600.0, 2),
            "requests": self.num_requests,
            "faulted_requests": self.num_faulted_requests,
            "attempts": self.num_attempts,
            "tokens": self.num_tokens,
            "trace_events": self.num_traced,
            "faults": sum(self.hits.values()),
            "fault_kinds_hit": sum(self.hits[kind] > 0 for kind in ALL_KINDS),
            "fault_kinds": len(ALL_KINDS),
            "cpu_s_per_seed": round(self.cpu_s / max(self.num_seeds, 1), 3),
        }


def is_calm(seed: int) -> bool:
    """Whether this seed is a control run without faults."""
    return seed % _CALM_EVERY == _CALM_EVERY - 1


def run_seeds(seeds: Sequence[int], *, timeline: Timeline, jobs: int) -> Iterator[SeedResult]:
    """Yield results as they come; with one job, in order."""
    run = partial(_run_one, timeline=timeline)
    if jobs == 1:
        yield from map(run, seeds)
        return
    context = multiprocessing.get_context("forkserver")
    with context.Pool(jobs, initializer=_one_thread) as pool:
        yield from pool.imap_unordered(run, seeds, chunksize=4)


def run_campaign(
    seeds: Sequence[int], *, timeline: Timeline, jobs: int, tell: Callable[[str], None], most_failures: int = 5
) -> Sum:
    """Run them all, or until ``most_failures`` seeds broke an oracle."""
    total = Sum()
    said_s = began_s = time.monotonic()
    for result in run_seeds(seeds, timeline=timeline, jobs=jobs):
        total.add(result)
        if result.violations:
            tell(describe(result))
            if len(total.failed) >= most_failures:
                tell(f"{most_failures} seeds failed: stopping")
                return total
        if time.monotonic() - said_s > 20.0:
            said_s = time.monotonic()
            per_s = total.num_seeds / (said_s - began_s)
            tell(f"{total.num_seeds} of {len(seeds)} seeds, {per_s:.1f} per second, {len(total.failed)} failed")
    return total


def describe(result: SeedResult) -> str:
    """A failed seed in words."""
    notes = "\n".join(f"    {note}" for note in result.last_notes)
    broken = "\n".join(f"  {violation}" for violation in result.violations[:5])
    return f"seed {result.seed} FAILED at {result.simulated_s:.3f} s\n{broken}\n  last events:\n{notes}"


def _one_thread() -> None:
    torch.set_num_threads(1)


def _run_one(seed: int, *, timeline: Timeline) -> SeedResult:
    return run_seed(seed, timeline=timeline, is_calm=is_calm(seed))
