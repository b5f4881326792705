"""Chunks inline in a TCP (or TLS) stream: sent from block memory, received straight into block memory."""

from collections.abc import Callable

from xxhash import xxh3_128, xxh3_128_digest

from tandem.kvtransfer.codec import encode_chunk
from tandem.kvtransfer.digest import PIECE_BYTES
from tandem.kvtransfer.errors import ProtocolViolation
from tandem.kvtransfer.frames import Chunk
from tandem.kvtransfer.wire import Wire


class TcpSendingChannel:
    """Sender's end: the digest pass brings the chunk into cache, the kernel copies it out of there."""

    name = "tcp"

    def __init__(self, wire: Wire) -> None:
        self.wire = wire

    def can_send(self) -> bool:
        """See SendingChannel."""
        return True

    def send_chunk(self, head: Chunk, payload: memoryview, *, seed: int) -> bytes:
        """See SendingChannel."""
        digest: bytes = xxh3_128_digest(payload, seed)
        self.wire.send(encode_chunk(head, digest=digest, slot=None), payload)
        return digest

    def slots_freed(self, num_freed: int) -> None:
        """See SendingChannel."""
        raise ProtocolViolation("slots: this transport has none")

    def close(self) -> None:
        """See SendingChannel."""
        self.wire.close()


class TcpReceivingChannel:
    """Receiver's end: each piece is hashed where it landed, while it is still in cache."""

    name = "tcp"

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self._left_bytes: int | None = None
        self._scratch = memoryview(bytearray(PIECE_BYTES))

    def receive(self, chunk: Chunk, target: memoryview, *, seed: int, stopped: Callable[[], bool]) -> bytes | None:
        """See ReceivingChannel."""
        hasher = xxh3_128(seed=seed)
        length = len(target)
        for start in range(0, length, PIECE_BYTES):
            piece = target[start : start + PIECE_BYTES]
            got = self.wire.read_into(piece, stopped)
            if got < len(piece):
                self._left_bytes = length - start - got
                return None
            hasher.update(piece)
        return hasher.digest()

    def discard(self, chunk: Chunk) -> None:
        """See ReceivingChannel."""
        left_bytes = chunk.length if self._left_bytes is None else self._left_bytes
        self._left_bytes = None
        while left_bytes > 0:
            left_bytes -= self.wire.read_into(self._scratch[:left_bytes])

    def slots_to_return(self) -> int:
        """See ReceivingChannel."""
        return 0

    def close(self) -> None:
        """See ReceivingChannel."""
        self.wire.close()
