"""Control frames out of a stream of bytes, whatever pieces they come in. Not for chunks."""

from .codec import HEADER_BYTES, Header, decode, decode_header
from .errors import ProtocolViolation
from .frames import Chunk, Frame


class FrameReader:
    """Collects bytes until a frame is whole. Holds at most one incomplete frame."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._header: Header | None = None

    def feed(self, data: bytes) -> list[Frame]:
        """Add bytes and return the frames they complete; raises ProtocolViolation."""
        self._buffer += data
        frames: list[Frame] = []
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    def _next(self) -> Frame | None:
        if self._header is None:
            if len(self._buffer) < HEADER_BYTES:
                return None
            self._header = decode_header(self._buffer[:HEADER_BYTES])
            del self._buffer[:HEADER_BYTES]
        size = self._header.payload_bytes
        if len(self._buffer) < size:
            return None
        header, self._header = self._header, None
        frame = decode(header, bytes(self._buffer[:size]))
        if isinstance(frame, Chunk):
            raise ProtocolViolation("chunk: only a sender may send chunks")
        del self._buffer[:size]
        return frame
