"""Who gives up first where tenants share room: whoever has most for its weight. Pure.

With ``n`` tenants that want more than there is, each ends with ``weight / sum of weights`` of the room, and one that
wants less keeps all it has: the share of each is the max-min fair one. Nothing is set aside for who does not come.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from tandem.core.ids import Tenant
from tandem.prefix_cache.keys import BlockKey

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Weights:
    """The weight of each tenant: 1 when it is not named."""

    by_tenant: Mapping[Tenant, float] = field(default_factory=dict)

    def load(self, tenant: Tenant, amount: float) -> float:
        """Return what ``tenant`` has of something, for its weight."""
        return amount / self.by_tenant.get(tenant, 1.0)


@dataclass(slots=True)
class _Part:
    keys: OrderedDict[BlockKey, None] = field(default_factory=OrderedDict)
    num_bytes: int = 0


class SharedLru(Generic[Value]):
    """Values of many tenants. ``victim`` is the least recently used one of the tenant with most bytes for its weight.

    It knows no capacity: whoever uses it takes victims out until enough is free.
    """

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._values: OrderedDict[BlockKey, tuple[Tenant, int, Value]] = OrderedDict()
        self._parts: dict[Tenant, _Part] = {}
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: BlockKey) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[BlockKey]:
        return iter(self._values)

    def get(self, key: BlockKey) -> Value | None:
        """Return the value, or None."""
        found = self._values.get(key)
        return None if found is None else found[2]

    def touch(self, key: BlockKey) -> None:
        """The value was used just now."""
        self._parts[self._values[key][0]].keys.move_to_end(key)
        self._values.move_to_end(key)

    def put(self, key: BlockKey, tenant: Tenant, num_bytes: int, value: Value) -> None:
        """Keep a value, in the place of what has that name."""
        self.pop(key)
        part = self._parts.setdefault(tenant, _Part())
        part.keys[key] = None
        part.num_bytes += num_bytes
        self._values[key] = (tenant, num_bytes, value)
        self.num_bytes += num_bytes

    def pop(self, key: BlockKey) -> Value | None:
        """Take a value out; None: it is not there."""
        found = self._values.pop(key, None)
        if found is None:
            return None
        tenant, num_bytes, value = found
        part = self._parts[tenant]
        del part.keys[key]
        part.num_bytes -= num_bytes
        self.num_bytes -= num_bytes
        if not part.keys:
            del self._parts[tenant]
        return value

    def victim(self) -> BlockKey | None:
        """Return what to take out next; None: there is nothing."""
        if not self._parts:
            return None
        most = max(self._parts, key=lambda tenant: self._weights.load(tenant, self._parts[tenant].num_bytes))
        return next(iter(self._parts[most].keys))

    def keys_of(self, tenant: Tenant | None) -> tuple[BlockKey, ...]:
        """Return what is there of ``tenant`` (None = of all), least recently used first."""
        if tenant is None:
            return tuple(self._values)
        part = self._parts.get(tenant)
        return () if part is None else tuple(part.keys)

    def num_bytes_of(self, tenant: Tenant) -> int:
        """Return the bytes of ``tenant``."""
        part = self._parts.get(tenant)
        return 0 if part is None else part.num_bytes
