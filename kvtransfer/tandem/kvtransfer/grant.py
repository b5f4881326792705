"""The receiver's permission to send: which blocks, where to, until when. Opaque bytes to everybody between the two.

It names only the blocks that the receiver lacks: ``blocks[i]`` is block ``first_ordinal + i`` of the KV, and ``claim``
stands for those before (see ``skipped``).
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import msgspec

from tandem.core.blocks import BlockRef
from tandem.core.ids import RequestId

from .errors import ProtocolViolation
from .identity import MAX_REQUEST_ID_BYTES, SECRET_BYTES, TransferKey
from .skipped import CLAIM_BYTES

__all__ = [
    "MAX_CHUNK_BYTES",
    "MAX_DEADLINE_S",
    "MAX_GRANT_BLOCKS",
    "BlockRef",
    "KvEndpoint",
    "KvGrant",
    "TransportName",
]

MAX_GRANT_BYTES = 4 * 1024 * 1024
MAX_GRANT_BLOCKS = 1 << 17
MAX_CHUNK_BYTES = 1 << 20
MAX_ENDPOINTS = 8
MAX_DEADLINE_S = 7 * 86400.0

TransportName = Literal["shm", "tcp"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KvEndpoint:
    """Where a receiver listens. ``shm`` works only for a sender of the same ``host_id``."""

    transport: TransportName
    address: str
    host_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KvGrant:
    """The right to write exactly ``blocks`` of one worker's one life, in transfer order: none when D has all.

    ``secret`` is the capability: 128 random bits, never logged, never sent over the KV link.
    """

    request_id: str
    attempt: int
    layout_fingerprint: str
    dst_worker_id: str
    dst_epoch: int
    blocks: tuple[BlockRef, ...]
    chunk_bytes: int
    endpoints: tuple[KvEndpoint, ...]
    secret: bytes = field(repr=False)
    deadline_left_s: float
    first_ordinal: int = 0
    claim: bytes = field(default=b"", repr=False)

    @property
    def key(self) -> TransferKey:
        """The hand-over this grant is for."""
        return TransferKey(RequestId(self.request_id), self.attempt)

    def to_bytes(self) -> bytes:
        """Encode for the control plane (msgpack)."""
        return msgspec.msgpack.encode(
            _WireGrant(
                request_id=self.request_id,
                attempt=self.attempt,
                layout=self.layout_fingerprint,
                worker_id=self.dst_worker_id,
                epoch=self.dst_epoch,
                blocks=tuple((ref.block_id, ref.generation) for ref in self.blocks),
                chunk_bytes=self.chunk_bytes,
                endpoints=tuple(
                    _WireEndpoint(transport=e.transport, address=e.address, host_id=e.host_id) for e in self.endpoints
                ),
                secret=self.secret,
                deadline_left_s=self.deadline_left_s,
                first_ordinal=self.first_ordinal,
                claim=self.claim,
            )
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> "KvGrant":
        """Decode and validate; raises ProtocolViolation naming the first bad field."""
        if len(data) > MAX_GRANT_BYTES:
            raise ProtocolViolation(f"grant: {len(data)} bytes is more than {MAX_GRANT_BYTES}")
        try:
            wire = _DECODER.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ProtocolViolation(f"grant: {error}") from error
        _check_range(wire)
        return cls(
            request_id=wire.request_id,
            attempt=wire.attempt,
            layout_fingerprint=wire.layout,
            dst_worker_id=wire.worker_id,
            dst_epoch=wire.epoch,
            blocks=tuple(BlockRef(block_id, generation) for block_id, generation in wire.blocks),
            chunk_bytes=wire.chunk_bytes,
            endpoints=tuple(
                KvEndpoint(transport=e.transport, address=e.address, host_id=e.host_id) for e in wire.endpoints
            ),
            secret=wire.secret,
            deadline_left_s=wire.deadline_left_s,
            first_ordinal=wire.first_ordinal,
            claim=wire.claim,
        )


_U32 = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class _WireEndpoint(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    transport: TransportName
    address: _Name
    host_id: Annotated[str, msgspec.Meta(max_length=256)]


class _WireGrant(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    request_id: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_REQUEST_ID_BYTES)]
    attempt: _U32
    layout: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    worker_id: _Name
    epoch: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
    blocks: Annotated[tuple[tuple[_U32, _U32], ...], msgspec.Meta(max_length=MAX_GRANT_BLOCKS)]
    chunk_bytes: Annotated[int, msgspec.Meta(ge=1, le=MAX_CHUNK_BYTES)]
    endpoints: Annotated[tuple[_WireEndpoint, ...], msgspec.Meta(min_length=1, max_length=MAX_ENDPOINTS)]
    secret: Annotated[bytes, msgspec.Meta(min_length=SECRET_BYTES, max_length=SECRET_BYTES)]
    deadline_left_s: Annotated[float, msgspec.Meta(ge=0, le=MAX_DEADLINE_S)]
    first_ordinal: Annotated[int, msgspec.Meta(ge=0, le=MAX_GRANT_BLOCKS)]
    claim: Annotated[bytes, msgspec.Meta(max_length=CLAIM_BYTES)]


def _check_range(wire: _WireGrant) -> None:
    num_blocks = wire.first_ordinal + len(wire.blocks)
    if not 1 <= num_blocks <= MAX_GRANT_BLOCKS:
        raise ProtocolViolation(f"grant: first_ordinal {wire.first_ordinal} with {len(wire.blocks)} blocks")
    if len(wire.claim) != (CLAIM_BYTES if wire.first_ordinal else 0):
        raise ProtocolViolation(f"grant: first_ordinal {wire.first_ordinal} with a claim of {len(wire.claim)} bytes")


_DECODER = msgspec.msgpack.Decoder(_WireGrant)
