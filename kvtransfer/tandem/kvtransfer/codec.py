"""Frames to bytes and back: a fixed 96-byte header, then a bounded payload. Never an object format, never an address.

::

    0    4        5     6         8            12           16          20            96
    magic version type  reserved  payload_len  payload_crc  header_crc  body (76)     payload …

``header_crc`` covers the whole header but itself, ``payload_crc`` the payload of every frame except chunks, whose
payload has its own digest. A header is canonical: unused bytes are zero. Anything else raises ProtocolViolation.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final
from zlib import crc32

from .errors import ProtocolViolation
from .frames import (
    Abort,
    Beat,
    Chunk,
    Commit,
    CommitAck,
    Credit,
    Frame,
    Hello,
    HelloAck,
    HelloStatus,
    Open,
    Seal,
    SlotsFreed,
)
from .grant import MAX_CHUNK_BYTES
from .identity import MAX_REQUEST_ID_BYTES, TAG_BYTES
from .layout import PROTOCOL_VERSION

HEADER_BYTES: Final = 96
MAX_SEAL_PAYLOAD_BYTES: Final = 1 << 20
MAX_BEAT_TAGS: Final = 4096
MAX_NAME_BYTES: Final = 256
MAX_REASON_BYTES: Final = 64

_MAGIC: Final = b"TKV1"
_PREFIX = struct.Struct("<4sBBHIII")
_CRC = struct.Struct("<I")
_CRC_AT: Final = 16
_BODY_BYTES: Final = HEADER_BYTES - _PREFIX.size

_HELLO = struct.Struct("<32sQQ")
_HELLO_ACK = struct.Struct("<BQII")
_OPEN = struct.Struct("<16sQQIIII")
_CHUNK = struct.Struct("<16sQIIIIII16s")
_CHUNK_BODY = struct.Struct(f"<16sQIIIIII16s{_BODY_BYTES - _CHUNK.size}s")
_CHUNK_FILL: Final = bytes(_BODY_BYTES - _CHUNK.size)
_START = struct.Struct("<4sBBHII")
_SEAL = struct.Struct("<16sQIIQI32s")
_TAGGED = struct.Struct("<16sQ")
_CREDIT = struct.Struct("<16sQI")
_COUNT = struct.Struct("<Q")


class FrameType(IntEnum):
    """The byte that says which body follows."""

    HELLO = 1
    HELLO_ACK = 2
    OPEN = 3
    CHUNK = 4
    SLOT_CHUNK = 5
    SEAL = 6
    COMMIT = 7
    COMMIT_ACK = 8
    ABORT = 9
    CREDIT = 10
    SLOTS_FREED = 11
    BEAT = 12


_MAX_PAYLOAD_BYTES: Final[dict[int, int]] = {  # by the plain number: an enum hashes in Python code
    FrameType.HELLO.value: MAX_NAME_BYTES,
    FrameType.HELLO_ACK.value: MAX_NAME_BYTES,
    FrameType.OPEN.value: MAX_REQUEST_ID_BYTES,
    FrameType.CHUNK.value: MAX_CHUNK_BYTES,
    FrameType.SEAL.value: MAX_SEAL_PAYLOAD_BYTES,
    FrameType.COMMIT.value: MAX_REASON_BYTES,
    FrameType.ABORT.value: MAX_REASON_BYTES,
    FrameType.BEAT.value: MAX_BEAT_TAGS * TAG_BYTES,
}


@dataclass(slots=True)
class Header:
    """A checked header: what kind of frame it is and how many payload bytes follow."""

    type: FrameType
    payload_bytes: int
    payload_crc: int
    body: bytes

    @property
    def is_chunk(self) -> bool:
        """True if the payload belongs into a block (or lies in a slot), not into memory of the link."""
        return self.type is FrameType.CHUNK or self.type is FrameType.SLOT_CHUNK


def encode(frame: Frame) -> bytes:
    """Return the frame's bytes; for an inline Chunk only its header, the payload follows from block memory.

    Raises ValueError for a value that does not fit its field (a defect of the caller, not of a peer).
    """
    try:
        kind, body, payload = _ENCODERS[type(frame)](frame)
    except struct.error as error:
        raise ValueError(f"{type(frame).__name__}: {error}") from error
    if len(payload) > _MAX_PAYLOAD_BYTES.get(kind.value, 0):
        raise ValueError(f"{type(frame).__name__}: payload of {len(payload)} bytes is too long")
    return _header(kind, body, len(payload), crc32(payload)) + payload


def encode_chunk(chunk: Chunk, *, digest: bytes, slot: int | None) -> bytes:
    """Return a chunk's header with this digest and slot (None: inline); those in ``chunk`` do not count.

    They are known only once the payload was read, and a copy of the frame per chunk would cost as much as its encoding.
    """
    kind, payload_bytes = (FrameType.CHUNK, chunk.length) if slot is None else (FrameType.SLOT_CHUNK, 0)
    body = _CHUNK_BODY.pack(
        chunk.tag,
        chunk.epoch,
        chunk.seq,
        chunk.block_id,
        chunk.generation,
        chunk.offset,
        chunk.length,
        slot or 0,
        digest,
        _CHUNK_FILL,
    )
    start = _START.pack(_MAGIC, PROTOCOL_VERSION, kind, 0, payload_bytes, 0)
    return start + _CRC.pack(crc32(body, crc32(start))) + body


def decode_header(data: bytes | bytearray | memoryview) -> Header:
    """Check 96 bytes and return the header; raises ProtocolViolation."""
    if len(data) != HEADER_BYTES:
        raise ProtocolViolation(f"header: {len(data)} bytes instead of {HEADER_BYTES}")
    magic, version, kind, reserved, payload_bytes, payload_crc, header_crc = _PREFIX.unpack_from(data)
    if magic != _MAGIC:
        raise ProtocolViolation("header: not a KV frame")
    raw = bytes(data)
    body = raw[_PREFIX.size :]
    if header_crc != crc32(body, crc32(raw[:_CRC_AT])):
        raise ProtocolViolation("header: checksum does not fit")
    if version != PROTOCOL_VERSION:
        raise ProtocolViolation(f"header: protocol version {version}, this worker speaks {PROTOCOL_VERSION}")
    frame_type = _FRAME_TYPES.get(kind)
    if frame_type is None:
        raise ProtocolViolation(f"header: frame type {kind} is unknown")
    if reserved or payload_bytes > _MAX_PAYLOAD_BYTES.get(kind, 0):
        raise ProtocolViolation(f"header: payload of {payload_bytes} bytes in a {frame_type.name} frame")
    return Header(frame_type, payload_bytes, payload_crc, body)


def decode(header: Header, payload: bytes = b"") -> Frame:
    """Return the frame of a header and its payload (none for chunks); raises ProtocolViolation."""
    if header.is_chunk:
        return _decode_chunk(header)
    if len(payload) != header.payload_bytes or crc32(payload) != header.payload_crc:
        raise ProtocolViolation(f"{header.type.name}: payload checksum does not fit")
    size, decoder = _DECODERS[header.type]
    if any(header.body[size:]):
        raise ProtocolViolation(f"{header.type.name}: bytes after the body")
    return decoder(header.body, payload)


def _header(kind: FrameType, body: bytes, payload_bytes: int, payload_crc: int) -> bytes:
    head = _PREFIX.pack(_MAGIC, PROTOCOL_VERSION, kind, 0, payload_bytes, payload_crc, 0)
    tail = body + bytes(_BODY_BYTES - len(body))
    return head[:_CRC_AT] + _CRC.pack(crc32(tail, crc32(head[:_CRC_AT]))) + tail


def _decode_chunk(header: Header) -> Chunk:
    tag, epoch, seq, block_id, generation, offset, length, slot, digest, fill = _CHUNK_BODY.unpack(header.body)
    inline = header.type is FrameType.CHUNK
    if not 1 <= length <= MAX_CHUNK_BYTES or (inline and header.payload_bytes != length):
        raise ProtocolViolation(f"chunk: length {length} with {header.payload_bytes} payload bytes")
    if header.payload_crc or (inline and slot) or fill != _CHUNK_FILL:
        raise ProtocolViolation("chunk: unused fields are not zero")
    return Chunk(tag, epoch, seq, block_id, generation, offset, length, digest, None if inline else slot)


def _text(payload: bytes, field: str) -> str:
    try:
        text = payload.decode()
    except UnicodeDecodeError as error:
        raise ProtocolViolation(f"{field}: not UTF-8") from error
    if not text.isprintable():
        raise ProtocolViolation(f"{field}: unprintable characters")
    return text


def _tag(tag: bytes) -> bytes:
    if len(tag) != TAG_BYTES:
        raise ValueError(f"tag of {len(tag)} bytes")
    return tag


def _encode_seal(f: Seal) -> tuple[FrameType, bytes, bytes]:
    body = _SEAL.pack(_tag(f.tag), f.epoch, f.num_blocks, f.num_chunks, f.num_bytes, f.lag_us, f.mac)
    return FrameType.SEAL, body, f.payload


def _encode_open(f: Open) -> tuple[FrameType, bytes, bytes]:
    body = _OPEN.pack(_tag(f.tag), f.src_epoch, f.epoch, f.attempt, f.num_blocks, f.chunk_bytes, f.first_ordinal)
    return FrameType.OPEN, body, f.request_id.encode()


def _encode_chunk_frame(f: Chunk) -> tuple[FrameType, bytes, bytes]:
    raise ValueError("use encode_chunk: a chunk's payload never passes through here")


def _decode_open(body: bytes, payload: bytes) -> Frame:
    named = _OPEN.unpack_from(body)
    return Open(*(*named[:-1], _text(payload, "request_id"), named[-1]))


def _decode_hello(body: bytes, payload: bytes) -> Frame:
    return Hello(*(*_HELLO.unpack_from(body), _text(payload, "worker_id")))


def _decode_hello_ack(body: bytes, payload: bytes) -> Frame:
    status, epoch, num_slots, slot_bytes = _HELLO_ACK.unpack_from(body)
    try:
        return HelloAck(HelloStatus(status), epoch, num_slots, slot_bytes, _text(payload, "worker_id"))
    except ValueError as error:
        raise ProtocolViolation(f"hello: status {status} is unknown") from error


def _decode_beat(body: bytes, payload: bytes) -> Frame:
    if len(payload) % TAG_BYTES:
        raise ProtocolViolation(f"beat: {len(payload)} bytes are no list of tags")
    tags = tuple(payload[at : at + TAG_BYTES] for at in range(0, len(payload), TAG_BYTES))
    return Beat(_COUNT.unpack_from(body)[0], tags)


_FRAME_TYPES: Final[dict[int, FrameType]] = {int(kind): kind for kind in FrameType}

_ENCODERS: dict[type, Callable[..., tuple[FrameType, bytes, bytes]]] = {
    Hello: lambda f: (FrameType.HELLO, _HELLO.pack(f.fingerprint, f.src_epoch, f.dst_epoch), f.worker_id.encode()),
    HelloAck: lambda f: (
        FrameType.HELLO_ACK,
        _HELLO_ACK.pack(f.status, f.epoch, f.num_slots, f.slot_bytes),
        f.worker_id.encode(),
    ),
    Open: _encode_open,
    Chunk: _encode_chunk_frame,
    Seal: _encode_seal,
    Commit: lambda f: (FrameType.COMMIT, _TAGGED.pack(_tag(f.tag), f.epoch), f.reason.encode()),
    CommitAck: lambda f: (FrameType.COMMIT_ACK, _TAGGED.pack(_tag(f.tag), f.epoch), b""),
    Abort: lambda f: (FrameType.ABORT, _TAGGED.pack(_tag(f.tag), f.epoch), f.reason.encode()),
    Credit: lambda f: (FrameType.CREDIT, _CREDIT.pack(_tag(f.tag), f.epoch, f.num_landed), b""),
    SlotsFreed: lambda f: (FrameType.SLOTS_FREED, _COUNT.pack(f.num_freed), b""),
    Beat: lambda f: (FrameType.BEAT, _COUNT.pack(f.epoch), b"".join(_tag(tag) for tag in f.tags)),
}

_DECODERS: dict[FrameType, tuple[int, Callable[[bytes, bytes], Frame]]] = {
    FrameType.HELLO: (_HELLO.size, _decode_hello),
    FrameType.HELLO_ACK: (_HELLO_ACK.size, _decode_hello_ack),
    FrameType.OPEN: (_OPEN.size, _decode_open),
    FrameType.SEAL: (_SEAL.size, lambda b, p: Seal(*(*_SEAL.unpack_from(b), p))),
    FrameType.COMMIT: (_TAGGED.size, lambda b, p: Commit(*(*_TAGGED.unpack_from(b), _text(p, "reason")))),
    FrameType.COMMIT_ACK: (_TAGGED.size, lambda b, p: CommitAck(*_TAGGED.unpack_from(b))),
    FrameType.ABORT: (_TAGGED.size, lambda b, p: Abort(*(*_TAGGED.unpack_from(b), _text(p, "reason")))),
    FrameType.CREDIT: (_CREDIT.size, lambda b, p: Credit(*_CREDIT.unpack_from(b))),
    FrameType.SLOTS_FREED: (_COUNT.size, lambda b, p: SlotsFreed(*_COUNT.unpack_from(b))),
    FrameType.BEAT: (_COUNT.size, _decode_beat),
}
