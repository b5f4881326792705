"""How long answers tend to be, per tenant (a router serves one model): what admission and placement reserve. Zero I/O.

A histogram per tenant over geometric buckets, in which old answers fade, so that any quantile can be read. Lengths are
spread about exponentially: a mean says little of them. Until a tenant's own answers say more, an exponential
distribution is assumed.
"""

import itertools
import math

from tandem.core.ids import Tenant

_MOST_TENANTS = 4096
_PER_DOUBLING = 4
_NUM_BUCKETS = 18 * _PER_DOUBLING + 1  # up to 2^18 tokens
_FADE = 0.99  # about the last hundred answers count
_PRIOR_WEIGHT = 4.0
_TOO_HEAVY = 1e9
PLANNED, CHARGED = 0.75, 0.90


class _Histogram:
    """Weights of lengths; a new one weighs more instead of the old ones less."""

    __slots__ = ("_new_weight", "_weights")

    def __init__(self, mean_tokens: float) -> None:
        self._new_weight = 1.0
        bounds = [0.0, *(_upper(i) for i in range(_NUM_BUCKETS - 1)), math.inf]
        survival = [math.exp(-bound / mean_tokens) for bound in bounds]
        self._weights = [_PRIOR_WEIGHT * (a - b) for a, b in itertools.pairwise(survival)]

    def add(self, num_tokens: float) -> None:
        self._new_weight /= _FADE
        self._weights[_bucket(num_tokens)] += self._new_weight
        if self._new_weight > _TOO_HEAVY:
            self._weights = [weight / self._new_weight for weight in self._weights]
            self._new_weight = 1.0

    def quantile(self, share: float) -> float:
        left = share * sum(self._weights)
        for index, weight in enumerate(self._weights):
            if weight >= left:
                low = 0.0 if index == 0 else _upper(index - 1)
                return low + (_upper(index) - low) * (left / weight if weight else 0.0)
            left -= weight
        return _upper(_NUM_BUCKETS - 1)


def _upper(index: int) -> float:
    return float(2.0 ** (index / _PER_DOUBLING))


def _bucket(num_tokens: float) -> int:
    if num_tokens <= 1.0:
        return 0
    return min(math.ceil(math.log2(num_tokens) * _PER_DOUBLING - 1e-9), _NUM_BUCKETS - 1)


class OutputLengths:
    """Fading quantiles of output tokens per sequence, by tenant."""

    def __init__(self, *, first_guess_tokens: float = 256.0) -> None:
        self._first_guess_tokens = first_guess_tokens
        self._unknown = _Histogram(first_guess_tokens)
        self._known: dict[Tenant, _Histogram] = {}

    def __len__(self) -> int:
        return len(self._known)

    def observe(self, tenant: Tenant, num_tokens: float) -> None:
        """Learn from one sequence that ended well."""
        histogram = self._known.get(tenant)
        if histogram is None:
            if len(self._known) >= _MOST_TENANTS:
                del self._known[next(iter(self._known))]
            histogram = self._known[tenant] = _Histogram(self._first_guess_tokens)
        histogram.add(num_tokens)

    def expected_tokens(self, tenant: Tenant, max_tokens: int, *, share: float = PLANNED) -> int:
        """Length that a ``share`` of the tenant's sequences do not pass: at least 1, at most ``max_tokens``."""
        guess = self._known.get(tenant, self._unknown).quantile(share)
        return max(1, min(max_tokens, round(guess)))
