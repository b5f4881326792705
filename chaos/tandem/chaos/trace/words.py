"""Events in words, for the history of a violation. Zero I/O."""

from collections.abc import Callable
from typing import Any

from tandem.core.blocks import BlockRef
from tandem.core.event_log import events as ev
from tandem.core.event_log.events import Event

_SHOWN_BLOCKS = 4


def describe(event: Event, *, block: BlockRef | None = None) -> str:
    """Return one line about ``event``, from the point of view of ``block`` when there is one."""
    words = _WORDS.get(type(event))
    return repr(event) if words is None else words(event, block)


def name_block(ref: BlockRef) -> str:
    """Name one use of a block."""
    return f"block {ref.block_id} generation {ref.generation}"


def _blocks(refs: tuple[BlockRef, ...], block: BlockRef | None) -> str:
    if block is not None:
        own = [ref for ref in refs if ref.block_id == block.block_id]
        if own:
            others = f" with {len(refs) - 1} others" if len(refs) > 1 else ""
            return name_block(own[0]) + others
    shown = ", ".join(f"{ref.block_id}/{ref.generation}" for ref in refs[:_SHOWN_BLOCKS])
    more = f", … ({len(refs)} in all)" if len(refs) > _SHOWN_BLOCKS else ""
    return f"blocks (id/generation) {shown}{more}"


def _owner(event: Any) -> str:
    return f"request {event.request} attempt {event.attempt}"


def _step(event: ev.DecodeStep, block: BlockRef | None) -> str:
    rows = event.rows
    if block is not None:
        rows = tuple(row for row in rows if any(ref.block_id == block.block_id for ref in row.blocks)) or rows
    shown = "; ".join(
        f"request {row.request} attempt {row.attempt} child {row.child}, {row.num_tokens} tokens" for row in rows[:2]
    )
    return f"a decode step reads for {shown}" + (f"; and {len(rows) - 2} more" if len(rows) > 2 else "")


def _accepted(event: ev.ChunkAccepted, _: BlockRef | None) -> str:
    return (
        f"chunk {event.seq} of {_owner(event)} accepted: it names {name_block(event.named)} of epoch {event.epoch}, "
        f"and was written to {name_block(event.target)}"
    )


def _dropped(event: ev.ChunkDropped, _: BlockRef | None) -> str:
    should = "" if event.target is None else f", where {name_block(event.target)} was due"
    return f"chunk dropped ({event.counter}): it names {name_block(event.named)} of epoch {event.epoch}{should}"


def _dispatched(event: ev.Dispatched, _: BlockRef | None) -> str:
    prefill = f"{event.prefill}-{event.prefill_epoch} and " if event.prefill else ""
    return f"attempt {event.attempt} goes to {prefill}{event.decode}-{event.decode_epoch}"


_WORDS: dict[type, Callable[[Any, BlockRef | None], str]] = {
    ev.BlocksAllocated: lambda e, b: f"{_blocks(e.blocks, b)} allocated to {_owner(e)} as {e.state}",
    ev.BlocksRekeyed: lambda e, b: f"{_blocks(e.blocks, b)} of attempt {e.from_attempt} became {_owner(e)}'s",
    ev.BlocksSealed: lambda e, b: f"{_blocks(e.blocks, b)} sealed",
    ev.BlocksCommitted: lambda e, b: f"{_blocks(e.blocks, b)} committed for {_owner(e)}",
    ev.BlocksCached: lambda e, b: f"{_blocks(e.blocks, b)} of {_owner(e)} became the cache's, which it goes on reading",
    ev.BlocksBorrowed: lambda e, b: f"{_blocks(e.blocks, b)} of the cache lent to {_owner(e)}",
    ev.BlocksReturned: lambda e, b: f"{_blocks(e.blocks, b)} of the cache returned by {_owner(e)}",
    ev.BlocksFreed: lambda e, b: f"{_blocks(e.blocks, b)} freed",
    ev.BlockPinned: lambda e, b: f"{name_block(e.block)} pinned to {e.purpose} it for {_owner(e)}",
    ev.BlockUnpinned: lambda e, b: f"{name_block(e.block)} unpinned",
    ev.GrantMade: lambda e, b: f"{_owner(e)} granted {_blocks(e.blocks, b)} for {e.deadline_left_s:.3f} s",
    ev.GrantEnded: lambda e, b: f"grant of {_owner(e)} ended: {e.how} {e.reason}".rstrip(),
    ev.ChunkAccepted: _accepted,
    ev.ChunkDropped: _dropped,
    ev.ReadRefused: lambda e, b: f"{_owner(e)} may not read {name_block(e.block)} any more",
    ev.DecodeStep: _step,
    ev.RequestAccepted: lambda e, b: f"request accepted, {e.num_sequences} sequences",
    ev.Dispatched: _dispatched,
    ev.Requeued: lambda e, b: f"attempt {e.attempt} decided, because of {e.reason}",
    ev.TokensForwarded: lambda e, b: f"child {e.child}: {e.count} tokens forwarded from position {e.position}",
    ev.RequestEnded: lambda e, b: f"request ended: {e.outcome} {e.reason}, {e.num_output_tokens} tokens",
    ev.UsageRecorded: lambda e, b: f"usage recorded: {e.num_prompt_tokens} + {e.num_output_tokens} tokens",
    ev.RoleChanged: lambda e, b: f"{e.role.value} {e.state}",
    ev.WorkerJudged: lambda e, b: f"the router holds {e.worker}-{e.worker_epoch} for {e.health}",
    ev.LogOpened: lambda e, b: f"process began, pid {e.pid}",
    ev.LogClosed: lambda e, b: "process ended in order",
}
