"""How long after its cancel a request still held KV blocks, anywhere. Reads event logs.

The caller's times and those of all processes are CLOCK_MONOTONIC of one machine, so they can be compared as they are.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from tandem.chaos.cluster.records import RequestRecord
from tandem.core.event_log.events import (
    BlocksAllocated,
    BlocksBorrowed,
    BlocksCached,
    BlocksFreed,
    BlocksReturned,
    Event,
    RequestAccepted,
)
from tandem.core.event_log.record import decode_line

_NEEDED = (
    b'"blocks_allocated"',
    b'"blocks_borrowed"',
    b'"blocks_cached"',
    b'"blocks_returned"',
    b'"blocks_freed"',
    b'"request_accepted"',
)
_Owners = dict[tuple[int, int], str]


@dataclass(slots=True, kw_only=True)
class HeldBlocks:
    """What the logs say about one request's blocks on all workers, its own and those that the caches lent it."""

    num_open: int = 0  # blocks that were never freed or given back
    last_freed_s: float = float("-inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockHistory:
    """Blocks by request, and requests by the caller's own name."""

    held: dict[str, HeldBlocks] = field(default_factory=dict)
    request_of: dict[str, str] = field(default_factory=dict)  # by traceparent

    def name_requests(self, records: Iterable[RequestRecord]) -> None:
        """Fill in the ids of requests whose callers left before they were told."""
        for record in records:
            record.request_id = record.request_id or self.request_of.get(record.traceparent, "")

    def gave_back(self, request: str, num_blocks: int, at_s: float) -> None:
        """A request holds so many blocks less from now on."""
        held = self.held[request]
        held.num_open -= num_blocks
        held.last_freed_s = max(held.last_freed_s, at_s)

    def freed_after_s(self, record: RequestRecord) -> float | None:
        """Seconds from the cancel until the last block was free; infinite if one never was, None if none was held."""
        held = self.held.get(record.request_id)
        if record.cancelled_s is None or held is None:
            return None
        if held.num_open:
            return float("inf")
        after_s = held.last_freed_s - record.cancelled_s
        return after_s if after_s > 0.0 else None


def read_block_history(paths: Sequence[Path]) -> BlockHistory:
    """Read all logs of one cluster."""
    history = BlockHistory()
    for path in paths:
        _read(path, history)
    return history


def _read(path: Path, history: BlockHistory) -> None:
    owner: _Owners = {}
    with path.open("rb") as file:
        for line in file:
            if not any(kind in line for kind in _NEEDED):
                continue
            try:
                record = decode_line(line)
            except msgspec.MsgspecError:
                continue  # torn by a kill
            if isinstance(record.event, RequestAccepted):
                history.request_of[record.event.traceparent] = record.event.request
            else:
                _note(record.event, record.t, owner, history)


def _note(event: Event, at_s: float, owner: _Owners, history: BlockHistory) -> None:
    match event:
        case BlocksAllocated(request=request, blocks=blocks):
            history.held.setdefault(request, HeldBlocks()).num_open += len(blocks)
            owner.update({(ref.block_id, ref.generation): request for ref in blocks})
        case BlocksBorrowed(request=request, blocks=blocks):
            history.held.setdefault(request, HeldBlocks()).num_open += len(blocks)
        case BlocksCached(blocks=blocks):
            for ref in blocks:
                owner.pop((ref.block_id, ref.generation), None)  # its request returns it, and need not free it
        case BlocksReturned(request=request, blocks=blocks):
            history.gave_back(request, len(blocks), at_s)
        case BlocksFreed(blocks=blocks):
            for ref in blocks:
                request_of = owner.pop((ref.block_id, ref.generation), None)
                if request_of is not None:
                    history.gave_back(request_of, 1, at_s)
        case _:
            return
