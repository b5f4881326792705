"""What a transport is: two ends of a channel, each used by one thread. A new one (NIXL) implements these and joins."""

from collections.abc import Callable
from typing import Protocol

from tandem.kvtransfer.frames import Chunk
from tandem.kvtransfer.wire import Wire


class SendingChannel(Protocol):
    """The sender's end of a link after the hand-shake."""

    name: str
    wire: Wire

    def can_send(self) -> bool:
        """True if a chunk would find room now (a free slot)."""
        ...

    def send_chunk(self, head: Chunk, payload: memoryview, *, seed: int) -> bytes:
        """Send one chunk; return the digest of exactly the bytes that were sent. ``head.digest`` and slot are ours."""
        ...

    def slots_freed(self, num_freed: int) -> None:
        """The receiver returned slots (cumulative count); raises ProtocolViolation for an impossible count."""
        ...

    def close(self) -> None:
        """Close the connection and unmap memory; idempotent."""
        ...


class ReceivingChannel(Protocol):
    """The receiver's end of a link after the hand-shake."""

    name: str
    wire: Wire

    def receive(self, chunk: Chunk, target: memoryview, *, seed: int, stopped: Callable[[], bool]) -> bytes | None:
        """Put the payload into ``target`` and return the digest of what lies there.

        None if ``stopped()`` turned true meanwhile; the rest of the payload is then still to be ``discard``ed.
        """
        ...

    def discard(self, chunk: Chunk) -> None:
        """Throw away what is left of this chunk's payload."""
        ...

    def slots_to_return(self) -> int:
        """Cumulative number of slots that the sender may use again; 0 for ever where there are no slots."""
        ...

    def close(self) -> None:
        """Close the connection and unmap memory; idempotent."""
        ...
