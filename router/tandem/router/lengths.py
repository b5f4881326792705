"""How long a tenant's answers usually are: the expected output that admission and placement reserve for. Zero I/O."""

from tandem.core.ids import Tenant

_SHARE_OF_NEW = 0.1
_MARGIN = 1.5  # lengths are spread about exponentially: 1.5 means is near their 78th percentile
_MOST_TENANTS = 4096


class OutputLengths:
    """Moving average of output tokens per sequence, by tenant."""

    def __init__(self, *, first_guess_tokens: float = 256.0) -> None:
        self._first_guess_tokens = first_guess_tokens
        self._means: dict[Tenant, float] = {}

    def observe(self, tenant: Tenant, num_tokens: float) -> None:
        """Learn from one sequence that ended well."""
        if tenant not in self._means and len(self._means) >= _MOST_TENANTS:
            del self._means[next(iter(self._means))]
        mean = self._means.get(tenant, self._first_guess_tokens)
        self._means[tenant] = mean + _SHARE_OF_NEW * (num_tokens - mean)

    def expected_tokens(self, tenant: Tenant, max_tokens: int) -> int:
        """Output tokens to reserve for one sequence: at least 1, at most ``max_tokens``."""
        guess = _MARGIN * self._means.get(tenant, self._first_guess_tokens)
        return max(1, min(max_tokens, round(guess)))
