"""The stream of a worker's cache events. Names travel joined: one message per name would cost many times as much."""

import math

from tandem.core.errors import InvalidArgument
from tandem.core.ids import Epoch
from tandem.core.kv_events import (
    KEY_BYTES,
    BlockKey,
    Cleared,
    KvEvent,
    KvUpdate,
    NumberedEvent,
    Removed,
    SnapshotPart,
    Stored,
    Tier,
    TierCost,
    WatchFrom,
)
from tandem.rpc.codec.enums import EnumCodec
from tandem.worker.v1 import cache_pb2 as pb

TIER = EnumCodec(
    {Tier.DEVICE: pb.KV_TIER_DEVICE, Tier.HOST: pb.KV_TIER_HOST, Tier.REMOTE: pb.KV_TIER_REMOTE},
)


def encode_watch(start: WatchFrom) -> pb.WatchKvEventsRequest:
    """Core to protobuf."""
    return pb.WatchKvEventsRequest(epoch=start.epoch, start_sequence=start.start_sequence)


def decode_watch(message: pb.WatchKvEventsRequest) -> WatchFrom:
    """Protobuf to core."""
    return WatchFrom(
        epoch=Epoch(message.epoch) if message.HasField("epoch") else None, start_sequence=message.start_sequence
    )


def encode_update(update: KvUpdate) -> pb.WatchKvEventsResponse:
    """Core to protobuf."""
    part = update.snapshot
    snapshot = None
    if part is not None:
        held = [_encode_blocks(stored) for stored in part.held]
        snapshot = pb.KvSnapshotPart(sequence=part.sequence, held=held, first=part.first, last=part.last)
    return pb.WatchKvEventsResponse(
        epoch=update.epoch,
        last_sequence=update.last_sequence,
        waited_ms=1e3 * update.waited_s,
        snapshot=snapshot,
        events=[_encode_event(numbered) for numbered in update.events],
        costs=[
            pb.KvTierCost(tier=TIER.encode(cost.tier), fixed_ms=1e3 * cost.fixed_s, ns_per_byte=1e9 * cost.s_per_byte)
            for cost in update.costs
        ],
    )


def decode_update(message: pb.WatchKvEventsResponse) -> KvUpdate:
    """Protobuf to core. Raises InvalidArgument for names that are cut, and events this release does not know."""
    snapshot = None
    if message.HasField("snapshot"):
        part = message.snapshot
        snapshot = SnapshotPart(
            sequence=part.sequence,
            held=tuple(_decode_stored(blocks) for blocks in part.held),
            first=part.first,
            last=part.last,
        )
    return KvUpdate(
        epoch=Epoch(message.epoch),
        last_sequence=message.last_sequence,
        waited_s=message.waited_ms / 1e3,
        snapshot=snapshot,
        events=tuple(NumberedEvent(sequence=event.sequence, event=_decode_event(event)) for event in message.events),
        costs=tuple(_decode_cost(cost) for cost in message.costs),
    )


def _decode_cost(message: pb.KvTierCost) -> TierCost:
    fixed_s, s_per_byte = message.fixed_ms / 1e3, message.ns_per_byte / 1e9
    for field, value in (("fixed_ms", fixed_s), ("ns_per_byte", s_per_byte)):
        if not 0.0 <= value < math.inf:
            raise InvalidArgument(f"costs.{field}", f"is {value}", remedy="send a finite number of at least 0")
    return TierCost(tier=TIER.decode(message.tier, field="costs.tier"), fixed_s=fixed_s, s_per_byte=s_per_byte)


def _encode_event(numbered: NumberedEvent) -> pb.KvEvent:
    match numbered.event:
        case Stored():
            return pb.KvEvent(sequence=numbered.sequence, stored=_encode_blocks(numbered.event))
        case Removed():
            return pb.KvEvent(sequence=numbered.sequence, removed=_encode_blocks(numbered.event))
        case Cleared():
            return pb.KvEvent(sequence=numbered.sequence, cleared=pb.KvCleared())


def _decode_event(message: pb.KvEvent) -> KvEvent:
    match message.WhichOneof("event"):
        case "stored":
            return _decode_stored(message.stored)
        case "removed":
            blocks = message.removed
            return Removed(keys=_split(blocks.keys), tier=TIER.decode(blocks.tier, field="tier"))
        case "cleared":
            return Cleared()
        case _:
            raise InvalidArgument("event", "is not one this release knows", remedy="use one release on both sides")


def _encode_blocks(blocks: Stored | Removed) -> pb.KvBlocks:
    return pb.KvBlocks(keys=b"".join(blocks.keys), tier=TIER.encode(blocks.tier))


def _decode_stored(message: pb.KvBlocks) -> Stored:
    return Stored(keys=_split(message.keys), tier=TIER.decode(message.tier, field="tier"))


def _split(joined: bytes) -> tuple[BlockKey, ...]:
    if len(joined) % KEY_BYTES:
        raise InvalidArgument("keys", f"has {len(joined)} bytes", remedy=f"send whole names of {KEY_BYTES} bytes")
    return tuple(BlockKey(joined[at : at + KEY_BYTES]) for at in range(0, len(joined), KEY_BYTES))
