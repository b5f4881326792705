"""How each tenant's requests used the cache, for operators. Zero I/O."""

from dataclasses import dataclass

from tandem.core.cache import TenantUsage
from tandem.core.ids import Tenant
from tandem.core.types import Usage

_MAX_TENANTS = 4096
_MAX_SHOWN = 100


@dataclass(slots=True)
class _Total:
    num_requests: int = 0
    cached_tokens: int = 0
    uncached_tokens: int = 0


class CacheUsage:
    """Totals of one router since its start; of a bounded number of tenants, those heard of last."""

    def __init__(self) -> None:
        self._totals: dict[Tenant, _Total] = {}

    def note(self, tenant: Tenant, usage: Usage) -> None:
        """A request ended whose prompt was computed, however it ended."""
        total = self._totals.pop(tenant, None) or _Total()
        if len(self._totals) >= _MAX_TENANTS:
            del self._totals[next(iter(self._totals))]
        self._totals[tenant] = total
        total.num_requests += 1
        total.cached_tokens += usage.cached_tokens
        total.uncached_tokens += usage.uncached_tokens

    def tenants(self) -> tuple[TenantUsage, ...]:
        """The tenants with the most cached tokens, the first of them first."""
        found = [
            TenantUsage(
                tenant=tenant,
                num_requests=total.num_requests,
                cached_tokens=total.cached_tokens,
                uncached_tokens=total.uncached_tokens,
            )
            for tenant, total in self._totals.items()
        ]
        return tuple(sorted(found, key=lambda usage: (-usage.cached_tokens, usage.tenant))[:_MAX_SHOWN])
