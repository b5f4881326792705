"""The two workers of the hand-over world: production machines, block tables and leases; memory of a few tagged bytes.

What the services and links do around the machines is done here step by step, so that an adversary can come between any
two of them: a copy begins (pin) and ends (unpin) in separate steps, and the engine adopts later than the machine says.
"""

from collections import Counter
from dataclasses import dataclass, field

from tandem.core.blocks import AttemptKey, BlockRef
from tandem.core.ids import RequestId
from tandem.engine.kv.block_table import BlockTable
from tandem.kvtransfer import KvGrant
from tandem.kvtransfer.frames import Abort, Beat, Chunk, Commit, CommitAck, Credit, Open, Seal
from tandem.kvtransfer.identity import transfer_tag
from tandem.kvtransfer.machine import receiver_events as rx
from tandem.kvtransfer.machine import sender_events as tx
from tandem.kvtransfer.machine.lease import LeaseTable
from tandem.kvtransfer.machine.receiver import HandoverReceiver
from tandem.kvtransfer.machine.sender import HandoverSender

BLOCK_BYTES, CHUNK_BYTES = 8, 4
CHUNKS_PER_BLOCK = BLOCK_BYTES // CHUNK_BYTES
FINGERPRINT = "0" * 64
Message = KvGrant | Open | Chunk | Seal | Commit | CommitAck | Abort | Credit | Beat


@dataclass(frozen=True, kw_only=True)
class Build:
    """The classes of a world: production, or one of them a mutant.

    Weak tags name the request alone: then the tag (the outermost of the guards) holds nothing off, and what is behind
    it must.
    """

    pool_blocks: int = 2
    sender: type[HandoverSender] = HandoverSender
    receiver: type[HandoverReceiver] = HandoverReceiver
    source_table: type[BlockTable] = BlockTable
    target_table: type[BlockTable] = BlockTable
    leases: type[LeaseTable] = LeaseTable
    weak_tags: bool = True

    @property
    def check_commits(self) -> bool:
        """Whether a verdict must name its attempt: with weak tags it can't (it costs a retry, never a byte)."""
        return not self.weak_tags


@dataclass
class Held:
    """A message on its way. ``origin`` is the attempt whose bytes or words it carries, whatever its names say."""

    message: Message
    origin: AttemptKey
    payload: bytes = b""


@dataclass
class Copy:
    """A chunk being copied out (P) or in (D), its block held."""

    key: AttemptKey
    ref: BlockRef
    action: tx.SendChunk | None = None
    write: rx.Write | None = None
    held: Held | None = None


@dataclass
class Sending:
    """One hand-over at P."""

    machine: HandoverSender
    refs: tuple[BlockRef, ...]
    grant: KvGrant | None = None
    tag: bytes = b""
    queue: list[tx.SenderAction] = field(default_factory=list)
    is_sealed: bool = False


@dataclass
class Receiving:
    """One hand-over at D."""

    machine: HandoverReceiver
    grant: KvGrant
    tag: bytes
    src_epoch: int = 0


def attempt_key(request: int, attempt: int) -> AttemptKey:
    """Name an attempt."""
    return AttemptKey(RequestId(f"{request:032x}"), attempt)


def content(key: AttemptKey, ordinal: int) -> bytes:
    """Return what a block of this attempt must hold: every chunk says whose it is, and which."""
    chunks = range(ordinal * CHUNKS_PER_BLOCK, (ordinal + 1) * CHUNKS_PER_BLOCK)
    return b"".join(bytes([int(key.request_id, 16), key.attempt, number, 0xA5]) for number in chunks)


def first_tokens(key: AttemptKey) -> bytes:
    """Return the seal's payload of this attempt."""
    return b"first " + content(key, 0)


def token_digest(key: AttemptKey) -> bytes:
    """Return what both sides compute over the prompt: the same for every attempt of a request."""
    return b"tokens of " + key.request_id.encode()


class Prefill:
    """P in one of its lives."""

    def __init__(self, build: Build, epoch: int, memory: bytearray) -> None:
        self.epoch = epoch
        self.table = build.source_table(build.pool_blocks)
        self.leases = build.leases()
        self.memory = memory
        self.sending: dict[AttemptKey, Sending] = {}
        self.copies: list[Copy] = []
        self.user: dict[int, AttemptKey] = {}  # who a block was given to last


class Decode:
    """D in one of its lives."""

    def __init__(self, build: Build, epoch: int, memory: bytearray) -> None:
        self.epoch = epoch
        self.table = build.target_table(build.pool_blocks)
        self.memory = memory
        self.receiving: dict[AttemptKey, Receiving] = {}
        self.copies: list[Copy] = []
        self.user: dict[int, AttemptKey] = {}
        self.ready: dict[AttemptKey, bytes] = {}  # said by the machine, on its way to the engine
        self.decoding: dict[AttemptKey, tuple[BlockRef, ...]] = {}


def tag_of(build: Build, grant: KvGrant) -> bytes:
    """Return the name of a hand-over on the wire."""
    if build.weak_tags:
        return grant.request_id.encode()[-16:]
    return transfer_tag(grant.secret, grant.key, dst_epoch=grant.dst_epoch)


def span(ref: BlockRef, offset: int = 0, length: int = BLOCK_BYTES) -> slice:
    """Return the bytes of a block, or of a part of it, in the memory."""
    start = ref.block_id * BLOCK_BYTES + offset
    return slice(start, start + length)


Counts = Counter[str]
