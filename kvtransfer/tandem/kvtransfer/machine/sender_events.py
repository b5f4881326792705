"""What the sending machine is told (events) and what it asks for (actions).

What is made once per chunk is not frozen: making a frozen dataclass takes several times as long. Nobody changes one.
"""

from dataclasses import dataclass

from tandem.kvtransfer.grant import BlockRef, KvGrant

# --- events --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Granted:
    """The receiver's grant came; ``claim`` is this side's own for the blocks that the grant leaves out."""

    grant: KvGrant
    claim: bytes = b""


@dataclass(frozen=True, slots=True)
class Offered:
    """The block at this position of the KV is computed (or was cached) and will not change."""

    ordinal: int
    ref: BlockRef


@dataclass(frozen=True, slots=True)
class Sealed:
    """The engine is done: so many blocks, skipped ones included, of these tokens, with these first tokens."""

    num_blocks: int
    token_digest: bytes
    payload: bytes


@dataclass(slots=True)
class ChunkSent:
    """The link copied a chunk out of its pinned block."""

    seq: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class SourceGone:
    """The link found that a block is no longer this transfer's."""


@dataclass(frozen=True, slots=True)
class CreditGiven:
    """So many chunks have landed (cumulative)."""

    num_landed: int


@dataclass(frozen=True, slots=True)
class CommitGot:
    """The receiver's verdict; an empty reason is success."""

    reason: str


@dataclass(frozen=True, slots=True)
class AbortAsked:
    """This worker wants to stop."""

    reason: str


@dataclass(frozen=True, slots=True)
class AbortGot:
    """The receiver stopped."""

    reason: str


@dataclass(frozen=True, slots=True)
class BeatGot:
    """The receiver's beat listed this transfer, or did not."""

    is_wanted: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """Something outside the protocol ends it: lost link, ended lease, unequal layouts."""

    reason: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


SenderEvent = (
    Granted
    | Offered
    | Sealed
    | ChunkSent
    | SourceGone
    | CreditGiven
    | CommitGot
    | AbortAsked
    | AbortGot
    | BeatGot
    | Ended
    | Tick
)

# --- actions -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SendOpen:
    """Tell the receiver that the transfer begins on this link."""


@dataclass(slots=True)
class SendChunk:
    """Copy these bytes out of ``source`` and send them for ``target``."""

    seq: int
    source: BlockRef
    target: BlockRef
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class SendSeal:
    """Everything was sent; ``sealed_at_s`` is when the engine sealed."""

    num_blocks: int
    num_chunks: int
    num_bytes: int
    mac: bytes
    payload: bytes
    sealed_at_s: float


@dataclass(frozen=True, slots=True)
class SendCommitAck:
    """Confirm the verdict."""


@dataclass(frozen=True, slots=True)
class SendAbort:
    """Tell the receiver to stop."""

    reason: str


@dataclass(frozen=True, slots=True)
class StartLease:
    """The sealed blocks now wait for the receiver; bound the waiting."""


@dataclass(frozen=True, slots=True)
class RenewLease:
    """The receiver still wants them."""


@dataclass(frozen=True, slots=True)
class Committed:
    """The receiver has adopted the KV: free the source blocks."""


@dataclass(frozen=True, slots=True)
class Failed:
    """This hand-over will not happen: free the source blocks."""

    reason: str
    retryable: bool


SenderAction = (
    SendOpen | SendChunk | SendSeal | SendCommitAck | SendAbort | StartLease | RenewLease | Committed | Failed
)
