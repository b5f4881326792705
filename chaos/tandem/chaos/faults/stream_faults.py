"""Faults on plain bytes: late, slow, standing still, swallowed, cut, reset, one of them flipped."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Literal

from tandem.chaos.faults.evidence import Evidence
from tandem.chaos.faults.flow import Direction, Flow, Piece, split
from tandem.chaos.faults.proxy import ProxyThread

_SLICE_BYTES: Final = 4096


class StreamFault(ABC):
    """What the faults share: a direction, and nothing to do at the beginning."""

    def __init__(self, direction: Direction) -> None:
        self.direction = direction

    def attached(self, flows: Sequence[Flow]) -> None:  # noqa: B027  # only one of them has something to do here
        """See LinkFault."""

    @abstractmethod
    async def apply(self, piece: Piece, flow: Flow) -> Sequence[Piece]:
        """See LinkFault."""

    @abstractmethod
    def verify(self) -> Evidence:
        """See LinkFault."""


class Delay(StreamFault):
    """Everything arrives ``seconds`` later; the rate stays what it was."""

    def __init__(self, direction: Direction, *, seconds: float) -> None:
        super().__init__(direction)
        self._seconds = seconds
        self._num_bytes = 0

    async def apply(self, piece: Piece, flow: Flow) -> Sequence[Piece]:
        """See LinkFault."""
        self._num_bytes += len(piece.data)
        return [replace(piece, due_s=time.monotonic() + self._seconds)]

    def verify(self) -> Evidence:
        """Something was delayed."""
        return Evidence(took_effect=self._num_bytes > 0, facts=f"{self._num_bytes} bytes {self._seconds} s later")


class RateLimit(StreamFault):
    """At most ``bytes_per_s``, over all connections of the direction together."""

    def __init__(self, direction: Direction, *, bytes_per_s: float) -> None:
        super().__init__(direction)
        self._bytes_per_s = bytes_per_s
        self._free_at_s = 0.0
        self._waited_s = 0.0
        self._num_bytes = 0

    async def apply(self, piece: Piece, flow: Flow) -> Sequence[Piece]:
        """See LinkFault."""
        rest = piece
        while rest.data:
            part, rest = split(rest, _SLICE_BYTES)
            now_s = time.monotonic()
            self._free_at_s = max(self._free_at_s, now_s) + len(part.data) / self._bytes_per_s
            self._waited_s += self._free_at_s - now_s
            await asyncio.sleep(self._free_at_s - now_s)
            await flow.send(part)
            self._num_bytes += len(part.data)
        return []

    def verify(self) -> Evidence:
        """Somebody had to wait."""
        facts = f"{self._num_bytes} bytes at {self._bytes_per_s:.0f} B/s, {self._waited_s:.3f} s of waiting"
        return Evidence(took_effect=self._num_bytes > 0 and self._waited_s > 0.0, facts=facts)


class Stall(StreamFault):
    """Nothing moves after ``after_bytes``, and nothing is lost; ``release`` lets it all go on."""

    def __init__(self, direction: Direction, *, after_bytes: int = 0) -> None:
        super().__init__(direction)
        self._left_bytes = after_bytes
        self._num_held_bytes = 0
        self._open = asyncio.Event()

    async def apply(self, piece: Piece, flow: Flow) -> Sequence[Piece]:
        """See LinkFault."""
        if self._open.is_set():
            return [piece]
        head, rest = split(piece, self._left_bytes)
        self._left_bytes -= len(head.data)
        if head.data:
            await flow.send(head)
        if not rest.data:
            return []
        self._num_held_bytes += len(rest.data)
        await self._open.wait()
        return [rest]

    def release(self, thread: ProxyThread) -> None:
        """Let everything go on."""
        thread.loop.call_soon_threadsafe(self._open.set)

    def verify(self) -> Evidence:
        """Bytes came and had to wait."""
        return Evidence(took_effect=self._num_held_bytes > 0, facts=f"{self._num_held_bytes} bytes held")


class Blackhole(StreamFault):
    """Bytes of one direction vanish; the connection stands, and the other direction works."""

    def __init__(self, direction: Direction) -> None:
        super().__init__(direction)
        self._num_bytes = 0

    async def apply(self, piece: Piece, flow: Flow) -> Sequence[Piece]:
        """See LinkFault."""
        self._num_bytes += len(piece.data)
        return []

    def verify(self) -> Evidence:
        """Something vanished."""
        return Evidence(took_effect=self._num_bytes > 0, facts=f"{self._num_bytes} bytes swallowed")


class Cut(StreamFault):
    """Each connection ends after ``after_bytes`` more bytes of the direction; 0 ends those that stand at once.

    ``how``: `close` as a process that ends does, `reset` with RST. After ``times`` connections the fault is spent.
    """

    def __init__(
        self,
        direction: Direction,
        *,
        after_bytes: int = 0,
        how: Literal["close", "reset"] = "close",
        times: int | None = 1,
    ) -> None:
        super().__init__(direction)
        self._after_bytes = after_bytes
        self._how = how
        self._times = times
        self._passed: dict[Flow, int] = {}
        self.num_cut = 0

    def attached(self, flows: Sequence[Flow]) -> None:
        """See LinkFault."""
        if self._after_bytes == 0:
            for flow in flows:
                self._cut(flow)

    async def apply(self, piece: Piece, flow: Flow) -> Sequence[Piece]:
        """See LinkFault."""
        if self._is_spent():
            return [piece]
        left_bytes = self._after_bytes - self._passed.get(flow, 0)
        if len(piece.data) < left_bytes:
            self._passed[flow] = self._passed.get(flow, 0) + len(piece.data)
            return [piece]
        head, _ = split(piece, left_bytes)
        if head.data:
            await flow.send(head)
        await flow.drained()
        self._passed[flow] = self._after_bytes
        self._cut(flow)
        return []

    def verify(self) -> Evidence:
        """A connection was ended."""
        facts = f"{self.num_cut} connections ended by {self._how} after {self._after_bytes} bytes"
        return Evidence(took_effect=self.num_cut > 0, facts=facts)

    def _is_spent(self) -> bool:
        return self._times is not None and self.num_cut >= self._times

    def _cut(self, flow: Flow) -> None:
        if self._is_spent():
            return
        self.num_cut += 1
        if self._how == "reset":
            flow.reset()
        else:
            flow.close()


class FlipByte(StreamFault):
    """One bit of byte ``at`` of the direction, counted from the fault's beginning, is turned over."""

    def __init__(self, direction: Direction, *, at: int) -> None:
        super().__init__(direction)
        self._left_bytes = at
        self._is_done = False

    async def apply(self, piece: Piece, flow: Flow) -> Sequence[Piece]:
        """See LinkFault."""
        if self._is_done or len(piece.data) <= self._left_bytes:
            self._left_bytes -= 0 if self._is_done else len(piece.data)
            return [piece]
        data = bytearray(piece.data)
        data[self._left_bytes] ^= 0x10
        self._is_done = True
        return [replace(piece, data=bytes(data))]

    def verify(self) -> Evidence:
        """The byte came and was flipped."""
        return Evidence(took_effect=self._is_done, facts="one byte flipped" if self._is_done else "the byte never came")
