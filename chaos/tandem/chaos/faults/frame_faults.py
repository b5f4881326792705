"""Faults on frames of a KV link: flipped, doubled, lost, held back and let go later, or written down.

They need a proxy with ``as_frames``. A fault looks at the frames of its kinds (`DATA`: those with KV in them) and picks
the ``nth``, from 0. Frames that go both ways (Beat, Abort) are meant as the receiver says them.
"""

import asyncio
import contextlib
import socket
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from tandem.chaos.faults.evidence import Evidence
from tandem.chaos.faults.flow import Direction, Flow, Piece
from tandem.chaos.faults.frame_splitter import DATA, FramePart, WireFrame
from tandem.chaos.faults.proxy import ProxyThread
from tandem.kvtransfer.codec import FrameType
from tandem.rpc.addresses import split_address

_REPLAY_TIMEOUT_S: Final = 5.0
_FROM_SENDER: Final = DATA | {FrameType.HELLO, FrameType.OPEN, FrameType.SEAL, FrameType.COMMIT_ACK}
Kinds = FrameType | frozenset[FrameType]


def _kinds(kinds: Kinds) -> frozenset[FrameType]:
    return frozenset({kinds}) if isinstance(kinds, FrameType) else kinds


class FrameFault(ABC):
    """What the faults share: which frames they mean."""

    def __init__(self, kinds: Kinds, *, nth: int = 0, times: int | None = 1) -> None:
        """``times`` frames from the ``nth`` on are meant; None = all."""
        self._kinds = _kinds(kinds)
        self.direction = Direction.TO_SERVER if self._kinds <= _FROM_SENDER else Direction.TO_CLIENT
        self._nth = nth
        self._times = times
        self._num_seen = 0
        self.num_hit = 0

    def attached(self, flows: Sequence[Flow]) -> None:  # noqa: B027  # nothing stands that a frame could be of
        """See LinkFault."""

    @abstractmethod
    async def apply(self, piece: Piece, flow: Flow) -> Sequence[Piece]:
        """See LinkFault."""

    @abstractmethod
    def verify(self) -> Evidence:
        """See LinkFault."""

    def _is_meant(self, piece: Piece) -> bool:
        if piece.kind not in self._kinds:
            return False
        self._num_seen += 1
        if self._num_seen <= self._nth or (self._times is not None and self.num_hit >= self._times):
            return False
        self.num_hit += 1
        return True

    def _evidence(self, done: str, *, took_effect: bool | None = None) -> Evidence:
        names = "/".join(sorted(kind.name for kind in self._kinds))
        facts = f"{self.num_hit} of {self._num_seen} {names} frames {done}"
        return Evidence(took_effect=self.num_hit > 0 if took_effect is None else took_effect, facts=facts)


class FlipInFrame(FrameFault):
    """One bit of the frame is turned over, in the part and at the byte that is asked for."""

    def __init__(self, kinds: Kinds, part: FramePart, *, offset: int = 0, nth: int = 0, times: int | None = 1) -> None:
        super().__init__(kinds, nth=nth, times=times)
        self._part = part
        self._offset = offset

    async def apply(self, piece: Piece, flow: Flow) -> Sequence[Piece]:
        """See LinkFault."""
        if not self._is_meant(piece):
            return [piece]
        return [replace(piece, data=WireFrame(piece.kind, piece.data).flipped(self._part, self._offset))]

    def verify(self) -> Evidence:
        """A frame was changed."""
        return self._evidence(f"changed in byte {self._offset} of the {self._part.value}")


class DuplicateFrame(FrameFault):
    """The frame comes twice, one right behind the other."""

    async def apply(self, piece: Piece, flow: Flow) -> Sequence[Piece]:
        """See LinkFault."""
        return [piece, piece] if self._is_meant(piece) else [piece]

    def verify(self) -> Evidence:
        """A frame went out twice."""
        return self._evidence("sent twice")


class DropFrame(FrameFault):
    """The frame is lost, the stream goes on behind it."""

    async def apply(self, piece: Piece, flow: Flow) -> Sequence[Piece]:
        """See LinkFault."""
        return [] if self._is_meant(piece) else [piece]

    def verify(self) -> Evidence:
        """A frame was lost."""
        return self._evidence("lost")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    piece: Piece
    flow: Flow


class HoldFrame(FrameFault):
    """The frame is kept back while others pass; it goes out behind the next of ``overtaken_by``, or at `release`."""

    def __init__(self, kinds: Kinds, *, nth: int = 0, times: int | None = 1, overtaken_by: Kinds | None = None) -> None:
        super().__init__(kinds, nth=nth, times=times)
        self._overtaken_by = frozenset() if overtaken_by is None else _kinds(overtaken_by)
        self._held: list[_Held] = []
        self._num_passed = 0
        self._num_late = 0

    @property
    def num_held(self) -> int:
        """Frames in hand."""
        return len(self._held)

    async def apply(self, piece: Piece, flow: Flow) -> Sequence[Piece]:
        """See LinkFault."""
        if self._is_meant(piece):
            self._held.append(_Held(piece=piece, flow=flow))
            return []
        if not self._held:
            return [piece]
        self._num_passed += 1
        if piece.kind not in self._overtaken_by:
            return [piece]
        await flow.send(piece)
        await self._let_go()
        return []

    def release(self, thread: ProxyThread) -> int:
        """Send what is held now; return how many frames could still be sent."""
        return thread.call(self._let_go())

    def verify(self) -> Evidence:
        """A frame went out late, behind others that it came before (or, released by hand, later than it came)."""
        facts = f"held, {self._num_late} let go late, {self._num_passed} frames passed them"
        return self._evidence(facts, took_effect=self._num_late > 0)

    async def _let_go(self) -> int:
        held, self._held = self._held, []
        sent = [await one.flow.send(one.piece) for one in held]
        self._num_late += sum(sent)
        return sum(sent)


class RecordFrames(FrameFault):
    """Writes down what senders said, so that it can be said again by somebody who has no right to."""

    def __init__(self, *, most: int = 1024) -> None:
        """Keep the first ``most`` frames of each connection."""
        super().__init__(FrameType.HELLO, times=None)
        self._most = most
        self._by_flow: dict[Flow, list[Piece]] = {}

    @property
    def frames(self) -> list[bytes]:
        """The frames of one connection, from its beginning; of one that carried KV, if there was any."""
        heard = list(self._by_flow.values())
        told = [pieces for pieces in heard if any(piece.kind in DATA for piece in pieces)]
        return [piece.data for piece in (told or heard or [[]])[0]]

    async def apply(self, piece: Piece, flow: Flow) -> Sequence[Piece]:
        """See LinkFault."""
        pieces = self._by_flow.setdefault(flow, [])
        if len(pieces) < self._most:
            pieces.append(piece)
        self._is_meant(piece)
        return [piece]

    def verify(self) -> Evidence:
        """A conversation was recorded from its beginning."""
        return self._evidence(f"among {sum(map(len, self._by_flow.values()))} recorded")


async def replay(frames: Sequence[bytes], address: str) -> bytes:
    """Say ``frames`` to the KV receiver at ``address`` again; return everything it answers until it hangs up.

    Raises TimeoutError when it neither answers nor hangs up within 5 s.
    """
    host, port = split_address(address)
    async with asyncio.timeout(_REPLAY_TIMEOUT_S):
        reader, writer = await asyncio.open_connection(host, port, family=socket.AF_UNSPEC)
        try:
            with contextlib.suppress(OSError):
                writer.write(b"".join(frames))
                writer.write_eof()
            answer = b""
            with contextlib.suppress(OSError):
                while data := await reader.read(65536):
                    answer += data
            return answer
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
