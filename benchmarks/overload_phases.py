"""Phases of the overload benchmark: so many requests per second from one or two tenants, and what came of them."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.overload_callers import Caller, Callers, Slo
from tandem.chaos.cluster import ChaosCluster

WINDOW_S = 5.0
RAMP_S = 5.0
_LAG_EVERY_S = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseResult:
    """What came of one phase. ``began_s`` and ``seconds`` are those of the arrivals."""

    name: str
    began_s: float
    seconds: float
    callers: Sequence[Caller]
    num_prefill_tokens: int  # computed by all workers, counted by themselves
    slo: Slo
    load_average: float  # of the machine at the end: far above what this program runs = it was not alone
    lag_ms: Sequence[float] = ()  # how late the callers' own loop was, sorted: what it adds to every time

    @property
    def num_good(self) -> int:
        """Callers with a whole answer within the SLO."""
        return sum(caller.is_good(self.slo) for caller in self.callers)

    @property
    def goodput(self) -> float:
        """Good answers that were over in the phase, per second, without its first seconds."""
        ramp_s = min(RAMP_S, self.seconds / 4.0)
        start_s, end_s = self.began_s + ramp_s, self.began_s + self.seconds
        ends_s = (caller.good_at_s(self.slo) for caller in self.callers)
        return sum(at_s is not None and start_s <= at_s < end_s for at_s in ends_s) / (self.seconds - ramp_s)

    @property
    def wasted_prefill(self) -> float:
        """Share of the prompt tokens computed that no good answer came of."""
        return max(0.0, 1.0 - self.used_tokens / self.num_prefill_tokens) if self.num_prefill_tokens else 0.0

    @property
    def used_tokens(self) -> int:
        """Prompt tokens of good answers."""
        return sum(caller.num_prompt_tokens for caller in self.callers if caller.is_good(self.slo))

    @property
    def refused_ms(self) -> list[float]:
        """How long refusals took."""
        return sorted(1e3 * a.refused_s for c in self.callers for a in c.attempts if a.refused_s is not None)

    @property
    def num_refused_without_wait(self) -> int:
        """Callers who were turned away for load and not told when to come back."""
        return sum(a.is_shed and not a.is_told for c in self.callers for a in c.attempts)

    def of(self, tenant: str) -> "PhaseResult":
        """One tenant's part; prefill tokens are not told apart."""
        mine = [caller for caller in self.callers if caller.tenant == tenant]
        return PhaseResult(
            name=self.name,
            began_s=self.began_s,
            seconds=self.seconds,
            callers=mine,
            num_prefill_tokens=0,
            slo=self.slo,
            load_average=self.load_average,
        )

    def cost_tokens(self) -> float:
        """Worth of the answers that came."""
        return sum(caller.cost_tokens for caller in self.callers)

    def details(self) -> dict[str, Any]:
        """For the result file."""
        attempts = [attempt for caller in self.callers for attempt in caller.attempts]
        ttfts = sorted(a.first_token_s - a.began_s for a in attempts if a.is_whole and a.first_token_s is not None)
        gaps = sorted(
            (a.last_token_s - a.first_token_s) / (a.num_tokens - 1)
            for a in attempts
            if a.is_whole and a.num_tokens > 1 and a.first_token_s is not None and a.last_token_s is not None
        )
        return {
            "phase": self.name,
            "offered_per_s": round(len(self.callers) / self.seconds, 2),
            "attempts": len(attempts),
            "served_per_s": round(sum(c.is_served for c in self.callers) / self.seconds, 2),
            "goodput_per_s": round(self.goodput, 2),
            "ttft_p50_s": _rounded(quantile(ttfts, 0.5)),
            "ttft_p99_s": _rounded(quantile(ttfts, 0.99)),
            "token_p50_s": _rounded(quantile(gaps, 0.5)),
            "token_p99_s": _rounded(quantile(gaps, 0.99)),
            "refusal_p50_ms": _rounded(quantile(self.refused_ms, 0.5)),
            "refusal_p99_ms": _rounded(quantile(self.refused_ms, 0.99)),
            "callers_lag_p99_ms": _rounded(quantile(self.lag_ms, 0.99)),
            "load_average": round(self.load_average, 1),
            "wasted_prefill": round(self.wasted_prefill, 4),
            "mean_prompt_good": self._mean_prompt(),
            "work_per_s": round(self.cost_tokens() / self.seconds, 1),
            "reasons": dict(Counter(attempt.reason for attempt in attempts if attempt.reason)),
            "tenants": {name: self.of(name).outcomes() for name in sorted({c.tenant for c in self.callers})},
        }

    def _mean_prompt(self) -> float | None:
        """Tokens in the prompts of good answers: under pressure the door has time for short ones rather."""
        sizes = [caller.num_prompt_tokens for caller in self.callers if caller.is_good(self.slo)]
        return round(sum(sizes) / len(sizes), 1) if sizes else None

    def outcomes(self) -> dict[str, int]:
        """What became of the callers: good, or why not (the reason of their last attempt, or which bound it missed)."""
        return dict(Counter(caller.outcome(self.slo) for caller in self.callers))


def quantile(values: Sequence[float], share: float) -> float | None:
    """Of sorted values."""
    return values[min(len(values) - 1, int(share * len(values)))] if values else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def jain(shares: Sequence[float]) -> float:
    """Jain's index: 1 when all are equal, 1/n when one has everything."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 0.0


def recovered_after_s(
    callers: Sequence[Caller], *, since_s: float, until_s: float, slo: Slo, share: float = 0.9
) -> float | None:
    """Seconds after ``since_s`` from which on at least ``share`` of who arrives in every window gets a good answer.

    None when there is no such time: one of the last two windows, which do not overlap, is not good, or empty.
    """
    last_bad_s = since_s
    start_s = since_s
    while start_s + WINDOW_S <= until_s:
        window = [c for c in callers if start_s <= c.arrived_s < start_s + WINDOW_S]
        if not window or sum(c.is_good(slo) for c in window) < share * len(window):
            last_bad_s = start_s + WINDOW_S
        start_s += 0.5
    return None if last_bad_s > until_s - 2.0 * WINDOW_S else last_bad_s - since_s


async def _lag_ms(seconds: float) -> list[float]:
    """Sorted: how much later than asked this loop woke, every 10 ms for so long."""
    lags: list[float] = []
    end_s = time.monotonic() + seconds
    while (began_s := time.monotonic()) < end_s:
        await asyncio.sleep(_LAG_EVERY_S)
        lags.append(1e3 * (time.monotonic() - began_s - _LAG_EVERY_S))
    return sorted(lags)


class Phases:
    """Runs phases one after another on one cluster, each until nobody is left."""

    def __init__(self, cluster: ChaosCluster, slo: Slo) -> None:
        self._cluster = cluster
        self._slo = slo

    async def saturated(self, callers: Callers, *, num_callers: int, seconds: float) -> PhaseResult:
        """A fixed number of callers, each with the next request as soon as the last is over."""
        before = self._cluster.verified().num_prefill_tokens
        began_s = time.monotonic()
        lag = asyncio.ensure_future(_lag_ms(seconds))
        came = await callers.saturate(num_callers=num_callers, seconds=seconds)
        return PhaseResult(
            name="saturated",
            began_s=began_s,
            seconds=seconds,
            callers=came,
            num_prefill_tokens=self._cluster.verified().num_prefill_tokens - before,
            slo=self._slo,
            load_average=os.getloadavg()[0],
            lag_ms=await lag,
        )

    async def offered(
        self, name: str, rates: Sequence[tuple[Callers, float]], *, seconds: float, leave: bool = True
    ) -> PhaseResult:
        """Poisson arrivals at the given rates; ``leave``: wait until everybody has gone."""
        before = self._cluster.verified().num_prefill_tokens
        began_s = time.monotonic()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(callers.arrive(per_s=rate, seconds=seconds)) for callers, rate in rates]
            lag = group.create_task(_lag_ms(seconds))
        if leave:
            for callers, _ in rates:
                await callers.left()
        return PhaseResult(
            name=name,
            began_s=began_s,
            seconds=seconds,
            callers=[caller for task in tasks for caller in task.result()],
            num_prefill_tokens=self._cluster.verified().num_prefill_tokens - before,
            slo=self._slo,
            load_average=os.getloadavg()[0],
            lag_ms=lag.result(),
        )
