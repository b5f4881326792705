"""The vocabulary of the event log. Zero I/O.

One struct per kind of event, told apart by ``kind``; the same objects are written as JSON and fed to a checker in
process. A block is named by a ``BlockRef`` (JSON: ``[block id, generation]``); its process is the envelope's.
"""

from typing import Literal

import msgspec

from tandem.core.blocks import BlockRef
from tandem.core.types import Role

PinPurpose = Literal["read", "write"]
AllocatedState = Literal["filling", "receiving", "committed"]


class _Event(msgspec.Struct, frozen=True, tag_field="kind", gc=False):
    """Base of all events."""


# --- the log itself --------------------------------------------------------------------------------------------------


class LogOpened(_Event, frozen=True, tag="log_opened"):
    """First record of every file. ``host`` names the boot of the machine: within it all ``t`` are of one clock."""

    version: int
    host: str
    pid: int


class LogClosed(_Event, frozen=True, tag="log_closed"):
    """Last record of a process that ended in order; a file without it is of a process that was killed."""


class RecordsLost(_Event, frozen=True, tag="records_lost"):
    """From here on ``count`` events are missing, because the buffer was full. Nothing later can be judged."""

    count: int


class ProcessPaused(_Event, frozen=True, tag="process_paused"):
    """No thread of this process ran for the ``seconds`` before this record: it was stopped, or starved of CPU."""

    seconds: float


# --- blocks of one process (order = the block table's own) -----------------------------------------------------------


class BlocksAllocated(_Event, frozen=True, tag="blocks_allocated"):
    """Free blocks were given to an attempt, each with a new generation."""

    request: str
    attempt: int
    state: AllocatedState
    blocks: tuple[BlockRef, ...]


class BlocksRekeyed(_Event, frozen=True, tag="blocks_rekeyed"):
    """All blocks of one attempt became a later one's of the same request, as they are: no copy, no new generation."""

    request: str
    from_attempt: int
    attempt: int
    blocks: tuple[BlockRef, ...]


class BlocksSealed(_Event, frozen=True, tag="blocks_sealed"):
    """FILLING → SEALED: they may be read by a hand-over."""

    blocks: tuple[BlockRef, ...]


class BlocksCommitted(_Event, frozen=True, tag="blocks_committed"):
    """RECEIVING → COMMITTED: they may be read by decoding."""

    request: str
    attempt: int
    blocks: tuple[BlockRef, ...]


class BlocksCached(_Event, frozen=True, tag="blocks_cached"):
    """Full, checked blocks of an attempt became the cache's; the attempt goes on reading them as a borrower."""

    request: str
    attempt: int
    blocks: tuple[BlockRef, ...]


class BlocksBorrowed(_Event, frozen=True, tag="blocks_borrowed"):
    """An attempt reads these cached blocks too from now on."""

    request: str
    attempt: int
    blocks: tuple[BlockRef, ...]


class BlocksReturned(_Event, frozen=True, tag="blocks_returned"):
    """An attempt reads these cached blocks no more."""

    request: str
    attempt: int
    blocks: tuple[BlockRef, ...]


class BlocksFreed(_Event, frozen=True, tag="blocks_freed"):
    """The blocks can be given to anybody from now on."""

    blocks: tuple[BlockRef, ...]


class BlockPinned(_Event, frozen=True, tag="block_pinned"):
    """A hand-over thread holds a block for a copy out ("read") or in ("write")."""

    request: str
    attempt: int
    block: BlockRef
    purpose: PinPurpose


class BlockUnpinned(_Event, frozen=True, tag="block_unpinned"):
    """It let go."""

    block: BlockRef


# --- hand-over -------------------------------------------------------------------------------------------------------


class GrantMade(_Event, frozen=True, tag="grant_made"):
    """The receiver allows a sender to fill these blocks; the grant must end within ``deadline_left_s`` (+ 1 s).

    ``num_skipped`` blocks come before them in the KV, which the receiver has borrowed from its cache.
    """

    request: str
    attempt: int
    blocks: tuple[BlockRef, ...]
    deadline_left_s: float
    num_skipped: int = 0


class GrantEnded(_Event, frozen=True, tag="grant_ended"):
    """The receiver is through with a grant: no byte is written under it any more."""

    request: str
    attempt: int
    how: Literal["committed", "aborted", "failed"]
    reason: str = ""


class ChunkAccepted(_Event, frozen=True, tag="chunk_accepted"):
    """A chunk was written into ``target`` while the receiver held it; ``epoch`` and ``named`` are what it named."""

    request: str
    attempt: int
    seq: int
    epoch: int
    named: BlockRef
    target: BlockRef


class ChunkDropped(_Event, frozen=True, tag="chunk_dropped"):
    """A chunk (or another frame) was refused, counted under ``counter``; ``target`` is what it had to name."""

    counter: str
    epoch: int
    named: BlockRef
    target: BlockRef | None = None


class ReadRefused(_Event, frozen=True, tag="read_refused"):
    """The sender was about to read ``block``, which is its hand-over's no more (R3): nothing of it is sent."""

    request: str
    attempt: int
    block: BlockRef


class HandoverSealed(_Event, frozen=True, tag="handover_sealed"):
    """The sender has everything: so many blocks, and the first tokens."""

    request: str
    attempt: int
    num_blocks: int


class HandoverCommitted(_Event, frozen=True, tag="handover_committed"):
    """The receiver adopted the KV and says so to the sender."""

    request: str
    attempt: int


class CommitAcknowledged(_Event, frozen=True, tag="commit_acknowledged"):
    """The sender knows of the commit: its blocks may go."""

    request: str
    attempt: int


# --- decoding --------------------------------------------------------------------------------------------------------


class StepRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One sequence of a decode step: the blocks that the model reads for it, and how many tokens of them."""

    request: str
    attempt: int
    child: int
    num_tokens: int
    blocks: tuple[BlockRef, ...]


class DecodeStep(_Event, frozen=True, tag="decode_step"):
    """A decode step is about to read these blocks."""

    rows: tuple[StepRow, ...]


# --- router ----------------------------------------------------------------------------------------------------------


class RequestAccepted(_Event, frozen=True, tag="request_accepted"):
    """The router took a request: it owes one terminal event. ``traceparent`` is the caller's, by which it knows it."""

    request: str
    num_sequences: int
    traceparent: str = ""


class Dispatched(_Event, frozen=True, tag="dispatched"):
    """An attempt goes to its workers; ``prefill`` is empty when the decode worker computes the prompt itself."""

    request: str
    attempt: int
    prefill: str
    prefill_epoch: int
    decode: str
    decode_epoch: int


class Requeued(_Event, frozen=True, tag="requeued"):
    """Another attempt was decided; ``attempt`` is its number."""

    request: str
    attempt: int
    reason: str


class TokensForwarded(_Event, frozen=True, tag="tokens_forwarded"):
    """The client was given ``count`` tokens of a child, beginning at ``position``."""

    request: str
    child: int
    position: int
    count: int


class RequestEnded(_Event, frozen=True, tag="request_ended"):
    """The client was given its one terminal event."""

    request: str
    outcome: str
    reason: str
    num_output_tokens: int


class UsageRecorded(_Event, frozen=True, tag="usage_recorded"):
    """The request's tokens went into the books."""

    request: str
    num_prompt_tokens: int
    num_output_tokens: int


class WorkerJudged(_Event, frozen=True, tag="worker_judged"):
    """The router believes something else of one life of a worker."""

    worker: str
    worker_epoch: int
    health: Literal["connecting", "alive", "suspect", "dead"]


# --- workers ---------------------------------------------------------------------------------------------------------


class RoleChanged(_Event, frozen=True, tag="role_changed"):
    """What this worker does, as it says itself."""

    role: Role
    state: Literal["serving", "draining", "stopped"]


Event = (
    LogOpened
    | LogClosed
    | RecordsLost
    | ProcessPaused
    | BlocksAllocated
    | BlocksRekeyed
    | BlocksSealed
    | BlocksCommitted
    | BlocksCached
    | BlocksBorrowed
    | BlocksReturned
    | BlocksFreed
    | BlockPinned
    | BlockUnpinned
    | GrantMade
    | GrantEnded
    | ChunkAccepted
    | ChunkDropped
    | ReadRefused
    | HandoverSealed
    | HandoverCommitted
    | CommitAcknowledged
    | DecodeStep
    | RequestAccepted
    | Dispatched
    | Requeued
    | TokensForwarded
    | RequestEnded
    | UsageRecorded
    | WorkerJudged
    | RoleChanged
)

KINDS: dict[type[Event], str] = {kind: str(kind.__struct_config__.tag) for kind in Event.__args__}
"""The name in the log of every kind of event."""

URGENT: frozenset[type[Event]] = frozenset(
    {RequestEnded, GrantEnded, RoleChanged, WorkerJudged, RecordsLost, LogClosed}
)
"""What is written at once, not with the next batch."""
