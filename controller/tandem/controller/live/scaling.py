"""Orders for new and superfluous workers: one record that whoever runs the processes follows.

It holds differences from the cluster's own plan, so that a controller that sees half of the cluster removes nothing.
Writing one and the same twice is harmless; a controller of a lower term can't write over a higher one.
"""

from collections.abc import Callable, Iterable, Mapping

import msgspec

from tandem.core.errors import Unavailable
from tandem.core.ids import WorkerId
from tandem.core.records import RecordStore
from tandem.core.traffic import StoredRecord
from tandem.core.types import Role

SCALE_RECORD = "scale"
_TRIES = 8


class ScaleOrders(msgspec.Struct, frozen=True, kw_only=True):
    """Workers beyond the plan, and workers of the plan that shall not run."""

    term: int = 0
    added: Mapping[str, Role] = {}
    removed: tuple[str, ...] = ()

    def encode(self) -> bytes:
        """Return the record's bytes."""
        return msgspec.json.encode(self)


_DECODER = msgspec.json.Decoder(ScaleOrders)


def read_orders(record: StoredRecord | None) -> ScaleOrders:
    """Return what a record says; nothing for one that can't be read."""
    if record is None:
        return ScaleOrders()
    try:
        return _DECODER.decode(record.value)
    except msgspec.MsgspecError:
        return ScaleOrders()


def with_added(orders: ScaleOrders, workers: Mapping[WorkerId, Role], term: int) -> ScaleOrders:
    """Return orders that also want these."""
    removed = tuple(name for name in orders.removed if name not in workers)
    added: dict[str, Role] = {
        **orders.added,
        **{name: role for name, role in workers.items() if name not in orders.removed},
    }
    return ScaleOrders(term=term, added=added, removed=removed)


def with_removed(orders: ScaleOrders, worker_id: WorkerId, term: int) -> ScaleOrders:
    """Return orders that do not want this one any more."""
    added = {name: role for name, role in orders.added.items() if name != worker_id}
    if worker_id in orders.added:
        return ScaleOrders(term=term, added=added, removed=orders.removed)
    return ScaleOrders(term=term, added=added, removed=tuple(sorted({*orders.removed, worker_id})))


def new_names(role: Role, count: int, taken: Iterable[str]) -> tuple[WorkerId, ...]:
    """Return the first ``count`` names of a pool that nobody has."""
    used, number = set(taken), 0
    names: list[WorkerId] = []
    while len(names) < count:
        name = f"{role.value}-{number}"
        if name not in used:
            names.append(WorkerId(name))
        number += 1
    return tuple(names)


class ScaleDesk:
    """Reads and writes the orders of one controller."""

    def __init__(self, store: RecordStore) -> None:
        self._store = store

    async def read(self) -> ScaleOrders:
        """Return the orders that hold."""
        return read_orders(await self._store.read(SCALE_RECORD))

    async def add(self, workers: Mapping[WorkerId, Role], term: int) -> None:
        """Order workers. Raises Unavailable when another controller of a higher term has written."""
        await self._change(lambda orders: with_added(orders, workers, term), term)

    async def remove(self, worker_id: WorkerId, term: int) -> None:
        """Order a worker's end."""
        await self._change(lambda orders: with_removed(orders, worker_id, term), term)

    async def _change(self, change: Callable[[ScaleOrders], ScaleOrders], term: int) -> None:
        record = await self._store.read(SCALE_RECORD)
        for _ in range(_TRIES):
            orders = read_orders(record)
            if orders.term > term:
                raise Unavailable(f"a controller of term {orders.term} has given orders", reason="TERM_OVER")
            written = await self._store.write(
                SCALE_RECORD,
                change(orders).encode(),
                expected_version=0 if record is None else record.version,
            )
            if written.done:
                return
            record = written.record
        raise Unavailable("the scale orders are written by others all the time", reason="RECORD_CONTENDED")
