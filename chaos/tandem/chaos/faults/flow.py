"""One direction of one proxied connection: read, let every fault have its way, write when due."""

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, Protocol

from tandem.chaos.faults.evidence import Evidence
from tandem.chaos.faults.frame_splitter import FrameSplitter
from tandem.kvtransfer.codec import FrameType

_READ_BYTES: Final = 64 * 1024
_MAX_QUEUED: Final = 256
_DRAIN_S: Final = 2.0
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class Direction(Enum):
    """Which way bytes go through a proxy."""

    TO_SERVER = "to_server"
    TO_CLIENT = "to_client"


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Some bytes on their way: a read's worth of a plain stream, or one whole frame of a KV link."""

    data: bytes
    kind: FrameType | None = None
    due_s: float = 0.0  # on time.monotonic: not written before


class LinkFault(Protocol):
    """A fault on the streams of one proxy; everything but ``verify`` runs on the proxy's loop."""

    direction: Direction

    async def apply(self, piece: Piece, flow: "Flow") -> Sequence[Piece]:
        """Return what goes on of ``piece``, and when; may wait."""
        ...

    def attached(self, flows: Sequence["Flow"]) -> None:
        """The fault begins; ``flows`` of its direction exist already."""
        ...

    def verify(self) -> Evidence:
        """Tell whether it took effect; safe from any thread."""
        ...


class Flow:
    """Pumps one direction. Faults are looked up per piece, so that they can come and go while it runs."""

    def __init__(
        self,
        *,
        direction: Direction,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        close_link: Callable[[], None],
        faults: Callable[[Direction], Sequence[LinkFault]],
        as_frames: bool,
    ) -> None:
        self.direction = direction
        self.num_bytes_in = 0
        self.is_closed = False
        self._reader = reader
        self._writer = writer
        self._close_link = close_link
        self._faults = faults
        self._splitter = FrameSplitter() if as_frames else None
        self._queue: asyncio.Queue[Piece | None] = asyncio.Queue(_MAX_QUEUED)

    async def run(self) -> None:
        """Pump until either end closes; then let the other end know in the same way."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._write())
                await self._read()
                await self._queue.put(None)
        except* (OSError, asyncio.IncompleteReadError):
            self._close_link()
        finally:
            self.is_closed = True

    async def send(self, piece: Piece) -> bool:
        """Send bytes that a fault kept or made; False when this direction is over."""
        if self.is_closed or self._writer.is_closing():
            return False
        await self._queue.put(piece)
        return True

    def close(self) -> None:
        """End the whole connection, both directions, as a process that ends does."""
        self._close_link()

    def reset(self) -> None:
        """End the whole connection with RST, whatever is on its way."""
        reset_on_close(self._writer)
        self._close_link()

    async def drained(self) -> None:
        """Wait until everything queued so far was written, or can't be."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_S):
                await self._queue.join()

    async def _read(self) -> None:
        while data := await self._reader.read(_READ_BYTES):
            self.num_bytes_in += len(data)
            if self._splitter is None:
                await self._offer(Piece(data=data))
            else:
                for frame in self._splitter.feed(data):
                    await self._offer(Piece(data=frame.data, kind=frame.kind))
        if self._splitter is not None and (rest := self._splitter.rest()):
            await self._offer(Piece(data=rest))

    async def _offer(self, piece: Piece) -> None:
        pieces: list[Piece] = [piece]
        for fault in self._faults(self.direction):
            pieces = [out for one in pieces for out in await fault.apply(one, self)]
        for one in pieces:
            await self._queue.put(one)

    async def _write(self) -> None:
        while (piece := await self._queue.get()) is not None:
            wait_s = piece.due_s - time.monotonic()
            if wait_s > 0.0:
                await asyncio.sleep(wait_s)
            self._writer.write(piece.data)
            await self._writer.drain()
            self._queue.task_done()
        with contextlib.suppress(OSError):
            self._writer.write_eof()


def reset_on_close(writer: asyncio.StreamWriter) -> None:
    """Make the close of this socket a reset."""
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError, AttributeError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)


def split(piece: Piece, num_bytes: int) -> tuple[Piece, Piece]:
    """Cut a piece in two."""
    return replace(piece, data=piece.data[:num_bytes]), replace(piece, data=piece.data[num_bytes:])
