"""What the hand-over services tell the event log: under each service's lock, before its actions are carried out."""

from collections.abc import Sequence

from tandem.core.event_log import EventSink
from tandem.core.event_log.events import (
    ChunkAccepted,
    ChunkDropped,
    CommitAcknowledged,
    GrantEnded,
    GrantMade,
    HandoverCommitted,
    HandoverSealed,
    ReadRefused,
)

from .frames import Chunk
from .grant import BlockRef, KvGrant
from .identity import TransferKey
from .machine import receiver_events, sender_events


def trace_sender(
    sink: EventSink,
    key: TransferKey,
    event: sender_events.SenderEvent,
    actions: Sequence[sender_events.SenderAction],
) -> None:
    """Record the seal and the end of a hand-over on the prefill side."""
    if isinstance(event, sender_events.Sealed) and actions:
        sink.record(HandoverSealed(request=key.request_id, attempt=key.attempt, num_blocks=event.num_blocks))
    elif isinstance(event, sender_events.CommitGot) and not event.reason and sender_events.Committed() in actions:
        sink.record(CommitAcknowledged(request=key.request_id, attempt=key.attempt))


def trace_refused_read(sink: EventSink, key: TransferKey, block: BlockRef) -> None:
    """Record a source block that was not the hand-over's any more when it was to be read."""
    sink.record(ReadRefused(request=key.request_id, attempt=key.attempt, block=block))


def trace_grant(sink: EventSink, grant: KvGrant) -> None:
    """Record a grant that was made."""
    sink.record(
        GrantMade(
            request=grant.request_id,
            attempt=grant.attempt,
            blocks=grant.blocks,
            deadline_left_s=grant.deadline_left_s,
            num_skipped=grant.first_ordinal,
        )
    )


def trace_receiver(
    sink: EventSink,
    grant: KvGrant,
    event: receiver_events.ReceiverEvent,
    actions: Sequence[receiver_events.ReceiverAction],
) -> None:
    """Record how a grant ended, and what was refused under it."""
    request, attempt = grant.request_id, grant.attempt
    for action in actions:
        if isinstance(action, receiver_events.Failed):
            sink.record(GrantEnded(request=request, attempt=attempt, how="failed", reason=action.reason))
        elif isinstance(action, receiver_events.Drop):
            _trace_drop(sink, grant, event, action.counter)
    if isinstance(event, receiver_events.Adopted) and actions:
        sink.record(HandoverCommitted(request=request, attempt=attempt))
        sink.record(GrantEnded(request=request, attempt=attempt, how="committed"))
    elif isinstance(event, receiver_events.AbortAsked) and any(
        isinstance(a, receiver_events.SendAbort) for a in actions
    ):
        sink.record(GrantEnded(request=request, attempt=attempt, how="aborted", reason=event.reason))


def trace_accepted(sink: EventSink, key: TransferKey, chunk: Chunk, target: BlockRef) -> None:
    """Record a chunk that was written; call it while the block is held for the write."""
    sink.record(
        ChunkAccepted(
            request=key.request_id,
            attempt=key.attempt,
            seq=chunk.seq,
            epoch=chunk.epoch,
            named=BlockRef(chunk.block_id, chunk.generation),
            target=target,
        )
    )


def trace_stray(sink: EventSink, chunk: Chunk, counter: str) -> None:
    """Record a chunk of no open hand-over."""
    named = BlockRef(chunk.block_id, chunk.generation)
    sink.record(ChunkDropped(counter=counter, epoch=chunk.epoch, named=named))


def _trace_drop(sink: EventSink, grant: KvGrant, event: receiver_events.ReceiverEvent, counter: str) -> None:
    if not isinstance(
        event, receiver_events.ChunkArrived | receiver_events.ChunkLanded | receiver_events.ChunkUnplaced
    ):
        return  # a seal that did not fit: the grant's end says so
    named = BlockRef(event.chunk.block_id, event.chunk.generation)
    target = next((ref for ref in grant.blocks if ref.block_id == named.block_id), None)
    sink.record(ChunkDropped(counter=counter, epoch=event.chunk.epoch, named=named, target=target))
