"""The sending side of one hand-over, pure.

::

    COLLECTING ──grant──► STREAMING ──all sent, sealed──► SEALED ──Commit──► DONE
        └────────────┴──── abort, lost link, stale source, timeout ────┴───► DONE

Grant, offers and seal may come in any order; a chunk leaves as soon as its block and a credit are there. Offers name
all blocks of the KV; only those that the grant names leave:

    ordinal     0   1   2   3   4
    offered    [x] [x] [x] [x] [t]
    granted             [0] [1] [2]      first_ordinal = 2; what is before it the receiver holds, by the claim
"""

import hmac
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any

from tandem.core import reasons
from tandem.kvtransfer.chunks import ChunkPlan
from tandem.kvtransfer.digest import DIGEST_BYTES, DigestKeys, SealedRange, derive_keys, seal_mac
from tandem.kvtransfer.grant import BlockRef, KvGrant
from tandem.kvtransfer.identity import TransferKey
from tandem.kvtransfer.timing import TOTAL_AFTER_SEAL_S, IdleTimer

from .sender_events import (
    AbortAsked,
    AbortGot,
    BeatGot,
    ChunkSent,
    CommitGot,
    Committed,
    CreditGiven,
    Ended,
    Failed,
    Granted,
    Offered,
    RenewLease,
    Sealed,
    SendAbort,
    SendChunk,
    SendCommitAck,
    SenderAction,
    SenderEvent,
    SendOpen,
    SendSeal,
    SourceGone,
    StartLease,
    Tick,
)

CREDIT_WINDOW_CHUNKS = 8
UNWANTED_BEATS = 2


class SenderState(Enum):
    """Where a hand-over is, on the sending side."""

    COLLECTING = "collecting"
    STREAMING = "streaming"
    SEALED = "sealed"
    DONE = "done"


class HandoverSender:
    """State of one hand-over at the prefill worker. Never touches memory, sockets or clocks.

    At most ``CREDIT_WINDOW_CHUNKS`` chunks are on their way at once, so an abort wastes at most those.
    """

    def __init__(self, *, key: TransferKey, fingerprint: str, block_bytes: int, now_s: float) -> None:
        self.key = key
        self.state = SenderState.COLLECTING
        self.granted_at_s = now_s
        self.sealed_at_s: float | None = None
        self._fingerprint = fingerprint
        self._block_bytes = block_bytes
        self._targets: tuple[BlockRef, ...] = ()
        self._first_ordinal = 0
        self._claim = b""
        self._sources: dict[int, BlockRef] = {}
        self._seal: Sealed | None = None
        self._ready: deque[int] = deque()
        self._digests: dict[int, bytes] = {}
        self._num_emitted = 0
        self._num_landed = 0
        self._num_unwanted = 0
        self._deadline_s = float("inf")
        self._plan = ChunkPlan(num_blocks=0, block_bytes=block_bytes, chunk_bytes=block_bytes)
        self._keys = DigestKeys(seed=0, mac_key=bytes(32))
        self._idle = IdleTimer(now_s)
        self._handlers: dict[type, Callable[[float, Any], list[SenderAction]]] = {
            Granted: self._on_grant,
            Offered: self._on_offer,
            Sealed: self._on_seal,
            ChunkSent: self._on_chunk_sent,
            SourceGone: self._on_source_gone,
            CreditGiven: self._on_credit,
            CommitGot: self._on_commit,
            AbortAsked: self._on_abort_asked,
            AbortGot: lambda _, event: self._fail(event.reason, retryable=True),
            BeatGot: self._on_beat,
            Ended: lambda _, event: self._fail(event.reason, retryable=event.retryable),
            Tick: self._on_tick,
        }

    @property
    def is_done(self) -> bool:
        """True when nothing of this hand-over is held any more."""
        return self.state is SenderState.DONE

    @property
    def num_chunks_sent(self) -> int:
        """Chunks that left this worker."""
        return len(self._digests)

    @property
    def num_bytes_sent(self) -> int:
        """Payload bytes that left this worker."""
        places = (self._plan.place(seq) for seq in self._digests)
        return sum(place.length for place in places if place is not None)

    @property
    def num_blocks_skipped(self) -> int:
        """Blocks that the receiver held already; 0 before the grant."""
        return self._first_ordinal

    @property
    def seed(self) -> int:
        """Seed of this transfer's chunk digests; 0 before the grant."""
        return self._keys.seed

    def on_event(self, now_s: float, event: SenderEvent) -> list[SenderAction]:
        """Apply one event and return what to do, in order. Once DONE, only a repeated Commit is answered."""
        if self.is_done:
            return [SendCommitAck()] if isinstance(event, CommitGot) else []
        return self._handlers[type(event)](now_s, event)

    def _on_grant(self, now_s: float, event: Granted) -> list[SenderAction]:
        if self.state is not SenderState.COLLECTING:
            return []  # a repeated grant
        grant: KvGrant = event.grant
        self.state = SenderState.STREAMING
        self.granted_at_s = now_s
        self._targets = grant.blocks
        self._first_ordinal, self._claim = grant.first_ordinal, event.claim
        self._keys = derive_keys(grant.secret)
        self._deadline_s = min(self._deadline_s, now_s + grant.deadline_left_s)  # a seal may have come before
        self._plan = ChunkPlan(
            num_blocks=len(grant.blocks), block_bytes=self._block_bytes, chunk_bytes=grant.chunk_bytes
        )
        if not hmac.compare_digest(event.claim, grant.claim):
            return self._refuse_prefix()
        if any(ordinal >= self._num_blocks for ordinal in self._sources) or self._seal_disagrees():
            return self._refuse()
        for ordinal in self._sources:
            self._make_ready(ordinal)
        return [SendOpen(), *self._pump(now_s), *self._seal_when_complete(now_s)]

    def _on_offer(self, now_s: float, event: Offered) -> list[SenderAction]:
        if event.ordinal in self._sources:
            return []
        self._sources[event.ordinal] = event.ref
        if self.state is SenderState.COLLECTING:
            return []
        if not 0 <= event.ordinal < self._num_blocks:
            return self._refuse()
        self._make_ready(event.ordinal)
        return self._pump(now_s)

    def _on_seal(self, now_s: float, event: Sealed) -> list[SenderAction]:
        if self._seal is not None:
            return []
        self._seal = event
        self.sealed_at_s = now_s
        self._deadline_s = min(self._deadline_s, now_s + TOTAL_AFTER_SEAL_S)
        if self.state is not SenderState.COLLECTING and self._seal_disagrees():
            return self._refuse()
        return [StartLease(), *self._seal_when_complete(now_s)]

    def _on_chunk_sent(self, now_s: float, event: ChunkSent) -> list[SenderAction]:
        self._digests[event.seq] = event.digest
        return self._seal_when_complete(now_s)

    def _on_source_gone(self, now_s: float, event: SourceGone) -> list[SenderAction]:
        return [SendAbort(reasons.KV_LEASE), *self._fail(reasons.KV_LEASE, retryable=True)]

    def _on_credit(self, now_s: float, event: CreditGiven) -> list[SenderAction]:
        if not self._num_landed < event.num_landed <= self._num_emitted:
            return []  # an old credit, or more than was ever sent
        self._num_landed = event.num_landed
        self._idle.progress(now_s)
        return self._pump(now_s)

    def _on_commit(self, now_s: float, event: CommitGot) -> list[SenderAction]:
        if event.reason:
            return [SendCommitAck(), *self._fail(event.reason, retryable=True)]
        if self.state is not SenderState.SEALED:
            return []  # nobody can have verified what was not sealed yet
        self.state = SenderState.DONE
        return [SendCommitAck(), Committed()]

    def _on_abort_asked(self, now_s: float, event: AbortAsked) -> list[SenderAction]:
        self.state = SenderState.DONE
        return [SendAbort(event.reason)]

    def _on_beat(self, now_s: float, event: BeatGot) -> list[SenderAction]:
        if event.is_wanted:
            self._num_unwanted = 0
            self._rest_if_all_landed(now_s)
            return [RenewLease()] if self._seal is not None else []
        self._num_unwanted += 1
        if self._num_unwanted < UNWANTED_BEATS:
            return []
        return self._fail(reasons.KV_PEER_LOST, retryable=True)

    def _on_tick(self, now_s: float, event: Tick) -> list[SenderAction]:
        """Whether the request itself is too late is the router's to judge: here it is this hand-over that was."""
        # Once sealed, a verdict is due: a receiver that neither gives it nor beats can't be reached.
        is_waiting = self.state is SenderState.SEALED or (
            self.state is SenderState.STREAMING and self._num_landed < self._num_emitted
        )
        if now_s > self._deadline_s or (is_waiting and self._idle.expired(now_s)):
            return [SendAbort(reasons.KV_TIMEOUT), *self._fail(reasons.KV_TIMEOUT, retryable=True)]
        return []

    def _pump(self, now_s: float) -> list[SenderAction]:
        actions: list[SenderAction] = []
        self._rest_if_all_landed(now_s)
        while self._ready and self._num_emitted - self._num_landed < CREDIT_WINDOW_CHUNKS:
            seq = self._ready.popleft()
            place = self._plan.place(seq)
            if place is None:
                continue
            self._num_emitted += 1
            source, target = self._sources[self._first_ordinal + place.ordinal], self._targets[place.ordinal]
            actions.append(SendChunk(seq, source, target, place.offset, place.length))
        return actions

    def _rest_if_all_landed(self, now_s: float) -> None:
        if self._num_emitted == self._num_landed:
            self._idle.rest(now_s)

    def _seal_when_complete(self, now_s: float) -> list[SenderAction]:
        seal = self._seal
        is_complete = len(self._digests) == self._plan.num_chunks
        if seal is None or self.sealed_at_s is None or self.state is not SenderState.STREAMING or not is_complete:
            return []
        self.state = SenderState.SEALED
        self._rest_if_all_landed(now_s)
        num_blocks = self._plan.num_blocks
        digests = b"".join(self._digests[seq] for seq in range(self._plan.num_chunks))
        mac = seal_mac(
            self._keys,
            fingerprint=self._fingerprint,
            token_digest=seal.token_digest,
            sent=SealedRange(num_blocks=num_blocks, first_ordinal=self._first_ordinal, claim=self._claim),
            digests=digests,
            payload=seal.payload,
        )
        num_bytes = num_blocks * self._block_bytes
        num_chunks = len(digests) // DIGEST_BYTES
        return [SendSeal(num_blocks, num_chunks, num_bytes, mac, seal.payload, self.sealed_at_s)]

    @property
    def _num_blocks(self) -> int:
        """Blocks of the KV by the grant, skipped ones included."""
        return self._first_ordinal + self._plan.num_blocks

    def _make_ready(self, ordinal: int) -> None:
        if ordinal >= self._first_ordinal:
            self._ready.extend(self._plan.seqs_of_block(ordinal - self._first_ordinal))

    def _seal_disagrees(self) -> bool:
        return self._seal is not None and self._seal.num_blocks != self._num_blocks

    def _refuse(self) -> list[SenderAction]:
        """The two workers count this prompt's blocks differently: no retry on the same pair can help."""
        return [SendAbort(reasons.KV_INTEGRITY), *self._fail(reasons.KV_INTEGRITY, retryable=False)]

    def _refuse_prefix(self) -> list[SenderAction]:
        """The receiver would leave out what it does not hold. Open first: an Abort names only what was opened."""
        return [SendOpen(), SendAbort(reasons.KV_PREFIX), *self._fail(reasons.KV_PREFIX, retryable=True)]

    def _fail(self, reason: str, *, retryable: bool) -> list[SenderAction]:
        self.state = SenderState.DONE
        return [Failed(reason, retryable)]
