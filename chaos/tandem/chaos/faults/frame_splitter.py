"""Finds the frames in the bytes of a KV link, for a proxy that must break a particular one. Zero I/O."""

import struct
import zlib
from dataclasses import dataclass
from enum import Enum
from typing import Final

from tandem.kvtransfer.codec import HEADER_BYTES, FrameType
from tandem.kvtransfer.digest import DIGEST_BYTES

_MAGIC: Final = b"TKV1"
_KIND_AT: Final = 5
_PAYLOAD_BYTES_AT: Final = 8
_HEADER_CRC_AT: Final = 16
_BODY_AT: Final = 20
_WORD = struct.Struct("<I")
_CHUNK_DIGEST_AT: Final = _BODY_AT + 48  # tag 16, epoch 8, six numbers of 4
_SEAL_MAC_AT: Final = _BODY_AT + 44  # tag 16, epoch 8, two numbers of 4, one of 8, one of 4
MAX_FRAME_BYTES: Final = 8 << 20
_RUN: Final = "RUN"  # several chunks in one frame, each with its digest at the end
DATA: Final = frozenset(kind for kind in FrameType if kind.name in {"CHUNK", _RUN})
"""Frames that carry KV inline."""


class FramePart(Enum):
    """Where a byte of a frame can be flipped."""

    HEADER = "header"  # anywhere under the header's checksum
    PAYLOAD = "payload"
    TRAILER = "trailer"  # what closes the frame's content (a digest, a seal's mac), under checksums that fit


@dataclass(frozen=True, slots=True)
class WireFrame:
    """One whole frame as it went over the wire."""

    kind: FrameType | None  # None: bytes that are no frame
    data: bytes

    def flipped(self, part: FramePart, offset: int) -> bytes:
        """Return the frame with one bit of byte ``offset`` (modulo the part's length) of ``part`` turned over.

        A trailer is flipped under a checksum that fits: only the end-to-end check can find it. Raises ValueError for a
        part that this frame does not have.
        """
        start, length = self._range(part)
        spoiled = bytearray(self.data)
        spoiled[start + offset % length] ^= 0x10
        if part is FramePart.TRAILER and start < HEADER_BYTES:
            body = spoiled[_BODY_AT:HEADER_BYTES]
            checksum = zlib.crc32(body, zlib.crc32(spoiled[:_HEADER_CRC_AT]))
            spoiled[_HEADER_CRC_AT:_BODY_AT] = _WORD.pack(checksum)
        return bytes(spoiled)

    def _range(self, part: FramePart) -> tuple[int, int]:
        if part is FramePart.HEADER:
            return 0, HEADER_BYTES
        tail_bytes = DIGEST_BYTES if self.kind is not None and self.kind.name == _RUN else 0
        if part is FramePart.PAYLOAD and len(self.data) > HEADER_BYTES:
            return HEADER_BYTES, len(self.data) - HEADER_BYTES - tail_bytes
        if part is FramePart.TRAILER and tail_bytes:
            return len(self.data) - tail_bytes, tail_bytes
        if part is FramePart.TRAILER and self.kind is FrameType.CHUNK:
            return _CHUNK_DIGEST_AT, 16
        if part is FramePart.TRAILER and self.kind is FrameType.SEAL:
            return _SEAL_MAC_AT, 32
        raise ValueError(f"a frame of kind {self.kind} has no {part.value}")


class FrameSplitter:
    """Takes bytes as they come, gives whole frames; what is no KV link at all is passed through unsplit."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._is_foreign = False

    def feed(self, data: bytes) -> list[WireFrame]:
        """Return the frames that are complete now."""
        if self._is_foreign:
            return [WireFrame(None, data)]
        self._buffer += data
        frames: list[WireFrame] = []
        while len(self._buffer) >= HEADER_BYTES:
            size = HEADER_BYTES + _WORD.unpack_from(self._buffer, _PAYLOAD_BYTES_AT)[0]
            if not self._buffer.startswith(_MAGIC) or size > MAX_FRAME_BYTES:
                self._is_foreign = True
                frames.append(WireFrame(None, bytes(self._buffer)))
                self._buffer.clear()
                break
            if len(self._buffer) < size:
                break
            frames.append(WireFrame(_kind(self._buffer[_KIND_AT]), bytes(self._buffer[:size])))
            del self._buffer[:size]
        return frames

    def rest(self) -> bytes:
        """Return the bytes of a frame that never became whole; the stream has ended."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest


def _kind(number: int) -> FrameType | None:
    try:
        return FrameType(number)
    except ValueError:
        return None
