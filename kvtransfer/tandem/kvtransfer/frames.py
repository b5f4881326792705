"""The frames of a KV link as values. ``codec`` turns them into bytes and back.

``tag`` names the hand-over (see ``identity``); ``epoch`` is the life of the worker the frame is *for*, except in Beat.
Chunk is not frozen: making a frozen dataclass takes several times as long, and this one is made per chunk.
"""

from dataclasses import dataclass
from enum import IntEnum


class HelloStatus(IntEnum):
    """The receiver's answer to Hello."""

    WELCOME = 0
    LAYOUT_MISMATCH = 1
    STALE_EPOCH = 2
    BUSY = 3


@dataclass(frozen=True, slots=True)
class Hello:
    """Sender's first frame: who I am, which life of you I mean, what my KV looks like."""

    fingerprint: bytes  # 32 bytes
    src_epoch: int
    dst_epoch: int
    worker_id: str


@dataclass(frozen=True, slots=True)
class HelloAck:
    """Receiver's first frame. On shm the staging ring's descriptor comes with it."""

    status: HelloStatus
    epoch: int
    num_slots: int
    slot_bytes: int
    worker_id: str


@dataclass(frozen=True, slots=True)
class Open:
    """A hand-over begins on this connection. Knowing the tag proves possession of the grant's secret."""

    tag: bytes
    src_epoch: int
    epoch: int
    attempt: int
    num_blocks: int
    chunk_bytes: int
    request_id: str
    first_ordinal: int = 0  # blocks of the KV before the granted ones, which the receiver holds


@dataclass(slots=True)
class Chunk:
    """Bytes of one place. The payload follows inline when ``slot`` is None, else lies in that slot of the ring."""

    tag: bytes
    epoch: int
    seq: int
    block_id: int
    generation: int
    offset: int
    length: int
    digest: bytes  # XXH3-128 of the payload
    slot: int | None


@dataclass(frozen=True, slots=True)
class Seal:
    """Every chunk was sent; this is what they must amount to."""

    tag: bytes
    epoch: int
    num_blocks: int
    num_chunks: int
    num_bytes: int
    lag_us: int  # from the engine's seal to this frame, on the sender's clock
    mac: bytes
    payload: bytes


@dataclass(frozen=True, slots=True)
class Commit:
    """Receiver's verdict; an empty reason means that the KV is verified and adopted."""

    tag: bytes
    epoch: int
    reason: str


@dataclass(frozen=True, slots=True)
class CommitAck:
    """Sender has seen the verdict and holds nothing any more."""

    tag: bytes
    epoch: int


@dataclass(frozen=True, slots=True)
class Abort:
    """Stop and free. Idempotent, either direction."""

    tag: bytes
    epoch: int
    reason: str


@dataclass(frozen=True, slots=True)
class Credit:
    """``num_landed`` chunks of this hand-over have landed so far (cumulative, so loss and repeats do no harm)."""

    tag: bytes
    epoch: int
    num_landed: int


@dataclass(frozen=True, slots=True)
class SlotsFreed:
    """``num_freed`` slots of this connection's ring were returned so far (cumulative, in ring order)."""

    num_freed: int


@dataclass(frozen=True, slots=True)
class Beat:
    """I am alive, and these hand-overs are still in my hands."""

    epoch: int  # the speaker's own
    tags: tuple[bytes, ...]


Frame = Hello | HelloAck | Open | Chunk | Seal | Commit | CommitAck | Abort | Credit | SlotsFreed | Beat
