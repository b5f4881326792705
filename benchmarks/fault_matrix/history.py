"""What the event logs of a cell say about its requests: who had them when, and which blocks were held for how long.

All processes of a cluster and the harness read one CLOCK_MONOTONIC, so their times are compared as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tandem.chaos.cluster import RequestRecord
from tandem.core.blocks import BlockRef
from tandem.core.event_log.events import (
    BlocksAllocated,
    BlocksBorrowed,
    BlocksFreed,
    BlocksReturned,
    DecodeStep,
    Event,
    RequestAccepted,
)
from tandem.core.event_log.record import ProcessLife, Record

if TYPE_CHECKING:
    from benchmarks.fault_matrix.scene import Scene


@dataclass(slots=True, kw_only=True)
class BlockUse:
    """One block that a request held: its own, or one that the worker's cache lent it."""

    life: ProcessLife
    block: BlockRef
    request: str
    allocated_s: float
    borrowed: bool = False
    freed_s: float | None = None  # when the block was free or given back to the cache; None = not to this day


class History:
    """Everything that was written since the cell began, by time."""

    def __init__(self, scene: "Scene") -> None:
        self.records: Sequence[Record] = sorted(scene.events(""), key=lambda record: record.t)
        self.uses: list[BlockUse] = []
        self._request_of: dict[str, str] = {}
        self._held: dict[tuple[ProcessLife, BlockRef], list[BlockUse]] = {}
        for record in self.records:
            self._read(record)

    def _read(self, record: Record) -> None:
        life = ProcessLife(record.process, record.epoch)
        match record.event:
            case RequestAccepted(request=request, traceparent=traceparent):
                self._request_of[traceparent] = request
            case BlocksAllocated(request=request, blocks=blocks) | BlocksBorrowed(request=request, blocks=blocks):
                borrowed = isinstance(record.event, BlocksBorrowed)
                for ref in blocks:
                    use = BlockUse(life=life, block=ref, request=request, allocated_s=record.t, borrowed=borrowed)
                    self._held.setdefault((life, ref), []).append(use)
                    self.uses.append(use)
            case BlocksFreed(blocks=blocks):
                for ref in blocks:
                    _end(self._held.pop((life, ref), []), record.t)
            case BlocksReturned(request=request, blocks=blocks):
                for ref in blocks:
                    _end([use for use in self._held.get((life, ref), []) if use.request == request], record.t)
            case _:
                return

    def request_of(self, record: RequestRecord) -> str:
        """The id of a caller's request; empty when it never came to the router."""
        return record.request_id or self._request_of.get(record.traceparent, "")

    def of(self, request: str, *kinds: type[Event], before_s: float = float("inf")) -> list[Record]:
        """Records of these kinds that name the request, up to a moment."""
        return [
            record
            for record in self.records
            if isinstance(record.event, kinds) and getattr(record.event, "request", "") == request
            if record.t <= before_s
        ]

    def was_decoded(self, request: str, *, before_s: float) -> bool:
        """Whether a decode step read for the request, up to a moment."""
        return any(
            isinstance(record.event, DecodeStep) and any(row.request == request for row in record.event.rows)
            for record in self.records
            if record.t <= before_s
        )

    def last_decoded_s(self, request: str) -> float:
        """When the last decode step read for the request; 0.0 when none did."""
        return max(
            (
                record.t
                for record in self.records
                if isinstance(record.event, DecodeStep) and any(row.request == request for row in record.event.rows)
            ),
            default=0.0,
        )

    def uses_of(self, request: str, role: str = "") -> list[BlockUse]:
        """Blocks that workers of a role held for the request."""
        return [use for use in self.uses if use.request == request and use.life.name.startswith(role)]

    def was_reused(self, life: ProcessLife, block: BlockRef, *, by_s: float) -> bool:
        """Whether the block was given to somebody else, after the use that ``block`` names, by then."""
        return any(
            use.life == life
            and use.block.block_id == block.block_id
            and use.block.generation != block.generation
            and use.allocated_s <= by_s
            for use in self._after(life, block)
        )

    def _after(self, life: ProcessLife, block: BlockRef) -> list[BlockUse]:
        """Uses that came later than the one named; all, if that one began before the cell."""
        own = [index for index, use in enumerate(self.uses) if use.life == life and use.block == block]
        return self.uses[own[-1] + 1 if own else 0 :]


def _end(uses: Sequence[BlockUse], at_s: float) -> None:
    for use in uses:
        use.freed_s = at_s if use.freed_s is None else use.freed_s
