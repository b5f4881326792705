"""Flushes that did not reach everybody: who is to be asked again, and when. Zero I/O.

A worker that did not answer is asked until it does. One that answered and whose Redis did not take the flush repeats it
by itself; only when it starts again, and knows of no flush any more, is it asked once more.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tandem.core.ids import Epoch, Tenant, WorkerId
from tandem.core.types import WorkerInfo

KEPT_S: Final = 30 * 86_400.0  # the longest that a block may live in Redis
MAX_OPEN: Final = 4096

Due = tuple[Tenant | None, WorkerInfo]


@dataclass(frozen=True, slots=True)
class _Open:
    heard_by: Epoch | None  # the life of the worker that repeats it by itself; None: none heard of it
    until_s: float


class UnfinishedFlushes:
    """By tenant (None = all) and worker; bounded: the oldest are forgotten first."""

    def __init__(self) -> None:
        self._open: OrderedDict[tuple[Tenant | None, WorkerId], _Open] = OrderedDict()

    def missed(self, tenant: Tenant | None, info: WorkerInfo, *, now_s: float) -> None:
        """The worker did not answer."""
        self._note(tenant, info, _Open(None, now_s + KEPT_S))

    def answered(self, tenant: Tenant | None, info: WorkerInfo, *, pending: bool, now_s: float) -> None:
        """The worker has forgotten; ``pending``: Redis has not."""
        if pending:
            self._note(tenant, info, _Open(info.epoch, now_s + KEPT_S))
        else:
            self._open.pop((tenant, info.worker_id), None)

    def due(self, workers: Sequence[WorkerInfo], *, now_s: float) -> list[Due]:
        """Return whom to ask now for what."""
        for key in [key for key, one in self._open.items() if one.until_s <= now_s]:
            del self._open[key]
        known = {info.worker_id: info for info in workers}
        return [
            (tenant, info)
            for (tenant, worker), one in self._open.items()
            if (info := known.get(worker)) is not None and info.epoch != one.heard_by
        ]

    def _note(self, tenant: Tenant | None, info: WorkerInfo, one: _Open) -> None:
        self._open[tenant, info.worker_id] = one
        self._open.move_to_end((tenant, info.worker_id))
        if len(self._open) > MAX_OPEN:
            self._open.popitem(last=False)
