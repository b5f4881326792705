"""Chunks through shared memory of one host: the sender copies into a slot, the receiver out of it, after its checks.

The ring belongs to the receiver and its descriptor goes over the link's Unix socket, which also carries every frame.
Slots are used strictly in turn, so "so many were freed" is all the sender must know.
"""

from collections.abc import Callable

from xxhash import xxh3_128

from tandem.kvtransfer.codec import encode_chunk
from tandem.kvtransfer.digest import PIECE_BYTES
from tandem.kvtransfer.errors import ProtocolViolation
from tandem.kvtransfer.frames import Chunk
from tandem.kvtransfer.wire import Wire

from .ring import StagingRing, copy_piece, pieces


class ShmSendingChannel:
    """Sender's end of a staging ring."""

    name = "shm"

    def __init__(self, wire: Wire, ring: StagingRing) -> None:
        self.wire = wire
        self._ring = ring
        self._num_used = 0
        self._num_freed = 0

    def can_send(self) -> bool:
        """See SendingChannel."""
        return self._num_used - self._num_freed < self._ring.num_slots

    def send_chunk(self, head: Chunk, payload: memoryview, *, seed: int) -> bytes:
        """See SendingChannel."""
        index = self._num_used % self._ring.num_slots
        hasher = xxh3_128(seed=seed)
        with self._ring.slot(index, len(payload)) as slot:
            for start in pieces(len(payload)):
                piece = payload[start : start + PIECE_BYTES]
                hasher.update(piece)
                copy_piece(slot[start : start + PIECE_BYTES], piece)
        digest = hasher.digest()
        self._num_used += 1
        self.wire.send(encode_chunk(head, digest=digest, slot=index))
        return digest

    def slots_freed(self, num_freed: int) -> None:
        """See SendingChannel."""
        if not self._num_freed <= num_freed <= self._num_used:
            raise ProtocolViolation(f"slots: {num_freed} freed of {self._num_used} used")
        self._num_freed = num_freed

    def close(self) -> None:
        """See SendingChannel."""
        self.wire.close()
        self._ring.close()


class ShmReceivingChannel:
    """Receiver's end, owner of the ring."""

    name = "shm"

    def __init__(self, wire: Wire, ring: StagingRing) -> None:
        self.wire = wire
        self._ring = ring
        self._num_returned = 0

    def receive(self, chunk: Chunk, target: memoryview, *, seed: int, stopped: Callable[[], bool]) -> bytes | None:
        """See ReceivingChannel. The digest is over what lies in the block, so a slot changed meanwhile is found."""
        hasher = xxh3_128(seed=seed)
        with self._ring.slot(self._expected_slot(chunk), chunk.length) as slot:
            for start in pieces(chunk.length):
                if stopped():
                    return None
                piece = target[start : start + PIECE_BYTES]
                copy_piece(piece, slot[start : start + PIECE_BYTES])
                hasher.update(piece)
        self._num_returned += 1
        return hasher.digest()

    def discard(self, chunk: Chunk) -> None:
        """See ReceivingChannel."""
        self._expected_slot(chunk)
        self._num_returned += 1

    def _expected_slot(self, chunk: Chunk) -> int:
        expected = self._num_returned % self._ring.num_slots
        if chunk.slot != expected:
            raise ProtocolViolation(f"chunk: slot {chunk.slot} out of turn")
        return expected

    def slots_to_return(self) -> int:
        """See ReceivingChannel."""
        return self._num_returned

    def close(self) -> None:
        """See ReceivingChannel."""
        self.wire.close()
        self._ring.close()
