"""Token buckets: how many requests and how many tokens a tenant may ask for per minute. Zero I/O.

A bucket holds at most ``rate · burst_s`` and fills at ``rate``. One that is full serves any demand, even one above its
size, and goes into debt for it: a large prompt is slowed down, not refused for ever. What a demand turned out to be
worth is settled at its end. Of several routers each grants an equal part of every limit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tandem.core.ids import Tenant

_MOST_TENANTS = 4096


class Quota(StrEnum):
    """What there is a limit on."""

    REQUESTS = "requests_per_minute"
    TOKENS = "tokens_per_minute"


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantLimit:
    """Of one tenant, per minute; None = no limit."""

    requests: float | None = None
    tokens: float | None = None
    burst_s: float = 60.0  # how much may come at once, in seconds of the rate


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaUsedUp:
    """Nothing was taken; after ``retry_after_s`` the same demand would be served."""

    quota: Quota
    limit: float  # per minute
    retry_after_s: float


class TokenBucket:
    """One bucket. Time is handed in and never goes back."""

    __slots__ = ("_level", "_most", "_rate", "_seen_s")

    def __init__(self, *, per_minute: float, burst_s: float, now_s: float) -> None:
        self._rate = per_minute / 60.0
        self._most = max(self._rate * burst_s, 1.0)
        self._level = self._most
        self._seen_s = now_s

    def missing_s(self, amount: float, now_s: float) -> float:
        """Seconds until ``amount`` can be taken; 0 = now."""
        self._fill(now_s)
        return max(0.0, min(amount, self._most) - self._level) / self._rate

    def take(self, amount: float, now_s: float) -> None:
        """Take it, be it there or not; a negative amount gives back."""
        self._fill(now_s)
        self._level = min(self._level - amount, self._most)

    def resize(self, *, per_minute: float, burst_s: float, now_s: float) -> None:
        """Go on with another rate. When it is lower, what is left is cut in proportion; when higher, it is kept.

        So routers that come to share a limit don't hold more together than one did, and what another router had left
        when it died is not granted again. Debts stay.
        """
        self._fill(now_s)
        rate = per_minute / 60.0
        if self._level > 0.0:
            self._level *= min(rate / self._rate, 1.0)
        self._rate = rate
        self._most = max(rate * burst_s, 1.0)

    def is_full(self, now_s: float) -> bool:
        """Whether it says nothing that a new one would not say."""
        self._fill(now_s)
        return self._level >= self._most

    def _fill(self, now_s: float) -> None:
        self._level = min(self._most, self._level + self._rate * max(now_s - self._seen_s, 0.0))
        self._seen_s = max(now_s, self._seen_s)


@dataclass(slots=True)
class _Pair:
    requests: TokenBucket | None
    tokens: TokenBucket | None

    def is_full(self, now_s: float) -> bool:
        return all(bucket is None or bucket.is_full(now_s) for bucket in (self.requests, self.tokens))


@dataclass(slots=True, kw_only=True)
class TenantBuckets:
    """The buckets of all tenants that have a limit; full ones are forgotten when there are many."""

    limits: Mapping[Tenant, TenantLimit] = field(default_factory=dict)
    default: TenantLimit = field(default_factory=TenantLimit)
    num_routers: int = 1
    _pairs: dict[Tenant, _Pair] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._pairs)

    def out_of_requests(self, tenant: Tenant, now_s: float) -> QuotaUsedUp | None:
        """Whether its next request is one too many, whatever its size; takes nothing."""
        limit = self.limits.get(tenant, self.default)
        pair = self._pair(tenant, limit, now_s)
        wait_s = 0.0 if pair is None or pair.requests is None else pair.requests.missing_s(1.0, now_s)
        if wait_s <= 0.0:
            return None
        return QuotaUsedUp(quota=Quota.REQUESTS, limit=limit.requests or 0.0, retry_after_s=wait_s)

    def take(self, tenant: Tenant, *, num_tokens: float, now_s: float) -> QuotaUsedUp | None:
        """Take one request with ``num_tokens``; all of it or nothing."""
        limit = self.limits.get(tenant, self.default)
        pair = self._pair(tenant, limit, now_s)
        if pair is None:
            return None
        if (used_up := self.out_of_requests(tenant, now_s)) is not None:
            return used_up
        wait_s = 0.0 if pair.tokens is None else pair.tokens.missing_s(num_tokens, now_s)
        if wait_s > 0.0:
            return QuotaUsedUp(quota=Quota.TOKENS, limit=limit.tokens or 0.0, retry_after_s=wait_s)
        if pair.requests is not None:
            pair.requests.take(1.0, now_s)
        if pair.tokens is not None:
            pair.tokens.take(num_tokens, now_s)
        return None

    def share_among(self, num_routers: int, now_s: float) -> None:
        """So many routers serve callers: each grants its part of every limit."""
        if num_routers == self.num_routers:
            return
        self.num_routers = num_routers
        for tenant, pair in self._pairs.items():
            limit = self.limits.get(tenant, self.default)
            for bucket, per_minute in ((pair.requests, limit.requests), (pair.tokens, limit.tokens)):
                if bucket is not None and per_minute is not None:
                    bucket.resize(per_minute=per_minute / num_routers, burst_s=limit.burst_s, now_s=now_s)

    def settle(self, tenant: Tenant, num_tokens: float, now_s: float) -> None:
        """A request was worth ``num_tokens`` more than was taken for it; negative = less."""
        pair = self._pairs.get(tenant)
        if pair is not None and pair.tokens is not None:
            pair.tokens.take(num_tokens, now_s)

    def _pair(self, tenant: Tenant, limit: TenantLimit, now_s: float) -> _Pair | None:
        if limit.requests is None and limit.tokens is None:
            return None
        pair = self._pairs.get(tenant)
        if pair is None:
            if len(self._pairs) >= _MOST_TENANTS:
                self._pairs = {name: kept for name, kept in self._pairs.items() if not kept.is_full(now_s)}
            pair = self._pairs[tenant] = _Pair(
                requests=self._bucket(limit.requests, limit.burst_s, now_s),
                tokens=self._bucket(limit.tokens, limit.burst_s, now_s),
            )
        return pair

    def _bucket(self, per_minute: float | None, burst_s: float, now_s: float) -> TokenBucket | None:
        if per_minute is None:
            return None
        return TokenBucket(per_minute=per_minute / self.num_routers, burst_s=burst_s, now_s=now_s)
