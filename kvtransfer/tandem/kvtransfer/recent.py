"""A bounded memory of what is over, so that late and repeated messages get the same answer (R6)."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

_T = TypeVar("_T", bound=Hashable)


class RecentSet(Generic[_T]):
    """The last ``capacity`` values that were added. Not thread-safe."""

    def __init__(self, capacity: int = 8192) -> None:
        self._capacity = capacity
        self._values: OrderedDict[_T, None] = OrderedDict()

    def add(self, value: _T) -> None:
        """Remember ``value``, forgetting the oldest when full."""
        self._values[value] = None
        self._values.move_to_end(value)
        if len(self._values) > self._capacity:
            self._values.popitem(last=False)

    def __contains__(self, value: _T) -> bool:
        return value in self._values
