"""Waiting times of a pool as a tail, not a mean. Pure formulas.

With ``c`` servers, offered load ``a = λ·E[S]`` and ``u = a / c``::

    C(c, a)      Erlang's C: the probability that all servers are busy
    θ            mean wait of those who wait = E[S]·(Ca² + Cs²) / (2c·(1 - u))      (Allen and Cunneen, M/G/c)
    P(W > t)     ≈ C · exp(-t / θ)

With strict, non-preemptive priorities, class k waits θₖ = E[S]·(Ca² + Cs²) / (2c·(1 - σₖ₋₁)(1 - σₖ)), where σₖ is the
busy share of the classes down to k (Cobham). A class is stable while σₖ < 1, whatever the classes below it ask for.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

_BISECTIONS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """What one class brings to a pool."""

    rate_per_s: float
    mean_s: float  # service time
    square_s2: float  # its second moment


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitTail:
    """P(W > t) = ``probability`` · exp(-t / ``mean_s``)."""

    probability: float
    mean_s: float  # of those who wait; infinite = the queue grows without end

    def exceeds(self, seconds: float) -> float:
        """Probability of waiting longer than ``seconds``."""
        if math.isinf(self.mean_s):
            return 1.0
        if seconds < 0.0:
            return 1.0
        if self.mean_s <= 0.0:
            return 0.0
        return self.probability * math.exp(-seconds / self.mean_s)


def erlang_c(num_servers: int, offered: float) -> float:
    """Probability that an arrival must wait; 1 when the load is at or above the servers."""
    if offered >= num_servers:
        return 1.0
    blocking = 1.0
    for servers in range(1, num_servers + 1):
        blocking = offered * blocking / (servers + offered * blocking)
    busy = offered / num_servers
    return blocking / (1.0 - busy * (1.0 - blocking))


def utilization(num_servers: int, streams: Sequence[Stream]) -> float:
    """Busy share that the streams ask for; above 1 when they ask for more than there is."""
    return sum(stream.rate_per_s * stream.mean_s for stream in streams) / num_servers


def priority_waits(
    num_servers: int, streams: Sequence[Stream], *, arrival_scv: float, extra_busy: float = 0.0
) -> list[WaitTail]:
    """Return the wait of each stream, most urgent first. ``extra_busy`` is a backlog's share, ahead of everybody."""
    rate = sum(stream.rate_per_s for stream in streams)
    if rate <= 0.0:
        return [WaitTail(probability=min(extra_busy, 1.0), mean_s=0.0) for _ in streams]
    mean_s = sum(stream.rate_per_s * stream.mean_s for stream in streams) / rate
    square_s2 = sum(stream.rate_per_s * stream.square_s2 for stream in streams) / rate
    service_scv = max(square_s2 / mean_s**2 - 1.0, 0.0) if mean_s > 0.0 else 0.0
    total = utilization(num_servers, streams) + extra_busy
    probability = erlang_c(num_servers, total * num_servers)
    spread_s = mean_s * (arrival_scv + service_scv) / (2.0 * num_servers)
    tails, before = [], extra_busy
    for stream in streams:
        until = before + stream.rate_per_s * stream.mean_s / num_servers
        mean_wait_s = spread_s / ((1.0 - before) * (1.0 - until)) if until < 1.0 else math.inf
        tails.append(WaitTail(probability=probability, mean_s=mean_wait_s))
        before = until
    return tails


def quantile_s(misses: Callable[[float], float], *, share: float, high_s: float) -> float:
    """Return the least t with ``misses(t)`` at most ``1 - share``; infinite when ``high_s`` does not do."""
    allowed = 1.0 - share
    if misses(high_s) > allowed + 1e-12:
        return math.inf
    low_s = 0.0
    for _ in range(_BISECTIONS):
        middle_s = (low_s + high_s) / 2.0
        if misses(middle_s) > allowed:
            low_s = middle_s
        else:
            high_s = middle_s
    return high_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """How many sequences a decode worker holds: negative binomial (Poisson where the spread of both is equal)."""

    mean: float
    variance: float
    skewness: float

    def quantile(self, share: float) -> float:
        """Return the ``share`` quantile (normal approximation with Cornish and Fisher's first correction)."""
        z = NormalDist().inv_cdf(share)
        return max(self.mean + math.sqrt(self.variance) * (z + (z * z - 1.0) * self.skewness / 6.0), self.mean)


def shared_batch(*, rate_per_s: float, base_s: float, cost_s: float, lent: float) -> Batch | None:
    """Return the batch of a worker that is asked for ``rate_per_s`` tokens; None when it grows without end.

    A step over n sequences takes ``base_s + cost_s·n``, and the worker steps for ``1 - lent`` of the time.
    """
    if rate_per_s <= 0.0:
        return Batch(mean=0.0, variance=0.0, skewness=0.0) if lent < 1.0 else None
    busy = rate_per_s * cost_s / (1.0 - lent) if lent < 1.0 else math.inf
    if busy >= 1.0:
        return None
    spread = rate_per_s * base_s / (1.0 - lent) + busy  # size · p
    mean = spread / (1.0 - busy)
    return Batch(mean=mean, variance=mean / (1.0 - busy), skewness=(1.0 + busy) / math.sqrt(spread) if spread else 0.0)
