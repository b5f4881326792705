"""What the receiving machine is told (events) and what it asks for (actions).

What is made once per chunk is not frozen: making a frozen dataclass takes several times as long. Nobody changes one.
"""

from dataclasses import dataclass

from tandem.kvtransfer.frames import Chunk, Open, Seal
from tandem.kvtransfer.grant import BlockRef

# --- events --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Opened:
    """The sender announced this hand-over on a link."""

    frame: Open


@dataclass(slots=True)
class ChunkArrived:
    """A chunk's header came; its payload is still outside block memory."""

    chunk: Chunk


@dataclass(slots=True)
class ChunkLanded:
    """The payload lies in its block; ``digest`` was computed over what landed there."""

    chunk: Chunk
    digest: bytes


@dataclass(frozen=True, slots=True)
class ChunkUnplaced:
    """The block table refused the write: the block is no longer RECEIVING for this hand-over."""

    chunk: Chunk


@dataclass(frozen=True, slots=True)
class SealGot:
    """The sender says that everything was sent."""

    seal: Seal


@dataclass(frozen=True, slots=True)
class Adopted:
    """The worker took the verified KV over."""


@dataclass(frozen=True, slots=True)
class CommitAckGot:
    """The sender has seen the verdict."""


@dataclass(frozen=True, slots=True)
class AbortAsked:
    """This worker wants to stop, for this reason."""

    reason: str


@dataclass(frozen=True, slots=True)
class AbortGot:
    """The sender stopped, for this reason."""

    reason: str


@dataclass(frozen=True, slots=True)
class PeerBeat:
    """The sender says that it is alive and works on this hand-over."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Something outside the protocol ends it (a lost link)."""

    reason: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


ReceiverEvent = (
    Opened
    | ChunkArrived
    | ChunkLanded
    | ChunkUnplaced
    | SealGot
    | Adopted
    | CommitAckGot
    | AbortAsked
    | AbortGot
    | PeerBeat
    | Ended
    | Tick
)

# --- actions -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Write:
    """Put the chunk's payload at ``offset`` of this block, which this hand-over was granted."""

    ref: BlockRef
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Drop:
    """Throw the payload away and count it under this name of ``Counters``."""

    counter: str


@dataclass(slots=True)
class SendCredit:
    """Tell the sender how many chunks have landed so far."""

    num_landed: int


@dataclass(frozen=True, slots=True)
class SendCommit:
    """Tell the sender the verdict; an empty reason is success."""

    reason: str


@dataclass(frozen=True, slots=True)
class SendAbort:
    """Tell the sender to stop."""

    reason: str


@dataclass(frozen=True, slots=True)
class Ready:
    """Every chunk came and the seal fits: the KV may be adopted."""

    payload: bytes
    sender_lag_s: float


@dataclass(frozen=True, slots=True)
class Failed:
    """This hand-over will not happen: free the destination blocks."""

    reason: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class Forget:
    """The protocol is over; late frames are to be treated as stale."""


ReceiverAction = Write | Drop | SendCredit | SendCommit | SendAbort | Ready | Failed | Forget
