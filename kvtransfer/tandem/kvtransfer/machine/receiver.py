"""The receiving side of one hand-over, pure.

::

    EXPECTING ──Open──► RECEIVING ──bitmap full, seal fits──► VERIFIED ──adopted──► COMMITTED ──CommitAck──► DONE
        └───────────────────┴── abort, bad digest, bad seal, lost link, idle, deadline ──► DONE

Chunks, bitmap and seal speak of the granted blocks alone; those before them are here already, and the seal binds the
claim that stands for them. A chunk has exactly one legal place (``ChunkPlan``) and one legal block reference (the
grant's): ``_refusal`` is the one function where both are checked.
"""

import hmac
from collections.abc import Callable
from enum import Enum
from typing import Any

from tandem.core import reasons
from tandem.kvtransfer.chunks import ChunkPlace, ChunkPlan
from tandem.kvtransfer.digest import DIGEST_BYTES, SealedRange, derive_keys, seal_mac
from tandem.kvtransfer.frames import Chunk, Seal
from tandem.kvtransfer.grant import KvGrant
from tandem.kvtransfer.timing import COMMIT_REPEAT_S, LEASE_S, TOTAL_AFTER_SEAL_S, IdleTimer

from .receiver_events import (
    AbortAsked,
    AbortGot,
    Adopted,
    ChunkArrived,
    ChunkLanded,
    ChunkUnplaced,
    CommitAckGot,
    Drop,
    Ended,
    Failed,
    Forget,
    Opened,
    PeerBeat,
    Ready,
    ReceiverAction,
    ReceiverEvent,
    SealGot,
    SendAbort,
    SendCommit,
    SendCredit,
    Tick,
    Write,
)


class ReceiverState(Enum):
    """Where a hand-over is, on the receiving side."""

    EXPECTING = "expecting"
    RECEIVING = "receiving"
    VERIFIED = "verified"
    COMMITTED = "committed"
    DONE = "done"


_HOSTILE = frozenset({"out_of_bounds", "not_granted"})
"""Refusals that no late or repeated frame explains: the sender is broken or lies."""


class HandoverReceiver:
    """State of one hand-over at the decode worker. Never touches memory, sockets or clocks."""

    def __init__(self, *, grant: KvGrant, block_bytes: int, token_digest: bytes, now_s: float) -> None:
        self.key = grant.key
        self.state = ReceiverState.EXPECTING
        self.keys = derive_keys(grant.secret)
        self._grant = grant
        self._token_digest = token_digest
        self._plan = ChunkPlan(num_blocks=len(grant.blocks), block_bytes=block_bytes, chunk_bytes=grant.chunk_bytes)
        self._digests: list[bytes | None] = [None] * self._plan.num_chunks
        self._in_flight: set[int] = set()
        self._seal: Seal | None = None
        self._num_landed = 0
        self._num_bytes = 0
        self._deadline_s = now_s + grant.deadline_left_s
        self._idle = IdleTimer(now_s)
        self._repeat_at_s = 0.0
        self._give_up_at_s = 0.0
        self._handlers: dict[type, Callable[[float, Any], list[ReceiverAction]]] = {
            Opened: self._on_opened,
            ChunkArrived: self._on_chunk,
            ChunkLanded: self._on_landed,
            ChunkUnplaced: self._on_unplaced,
            SealGot: self._on_seal,
            Adopted: self._on_adopted,
            CommitAckGot: self._on_commit_ack,
            AbortAsked: self._on_abort_asked,
            AbortGot: lambda _, event: self._fail(event.reason, retryable=True),
            PeerBeat: self._on_peer_beat,
            Ended: lambda _, event: self._fail(event.reason, retryable=True),
            Tick: self._on_tick,
        }

    @property
    def is_done(self) -> bool:
        """True when the protocol is over."""
        return self.state is ReceiverState.DONE

    @property
    def is_wanted(self) -> bool:
        """True while the sender's blocks are still needed."""
        return self.state in (ReceiverState.EXPECTING, ReceiverState.RECEIVING, ReceiverState.VERIFIED)

    @property
    def num_chunks_landed(self) -> int:
        """Chunks that lie in their blocks, digest checked."""
        return self._num_landed

    @property
    def is_half_landed(self) -> bool:
        """True while the newest of the landed chunks completed the first half."""
        return self._num_landed == (self._plan.num_chunks + 1) // 2

    @property
    def num_blocks_skipped(self) -> int:
        """Blocks of the KV that were here already."""
        return self._grant.first_ordinal

    @property
    def num_bytes_landed(self) -> int:
        """Payload bytes that lie in their blocks."""
        return self._num_bytes

    def on_event(self, now_s: float, event: ReceiverEvent) -> list[ReceiverAction]:
        """Apply one event and return what to do, in order. Once DONE, every chunk is stale and the rest is ignored."""
        if self.is_done:
            return [Drop("stale_generation")] if isinstance(event, ChunkArrived) else []
        return self._handlers[type(event)](now_s, event)

    def _on_opened(self, now_s: float, event: Opened) -> list[ReceiverAction]:
        frame = event.frame
        if frame.first_ordinal != self._grant.first_ordinal:
            return self._abort(reasons.KV_PREFIX, retryable=True)
        is_same = (
            (frame.request_id, frame.attempt) == (self.key.request_id, self.key.attempt)
            and frame.num_blocks == self._plan.num_blocks
            and frame.chunk_bytes == self._plan.chunk_bytes
        )
        if not is_same:
            return self._abort(reasons.KV_INTEGRITY, retryable=False)
        if self.state is ReceiverState.EXPECTING:
            self.state = ReceiverState.RECEIVING
            self._idle.rest(now_s)
        return []

    def _on_chunk(self, now_s: float, event: ChunkArrived) -> list[ReceiverAction]:
        place = self._plan.place(event.chunk.seq)
        refusal = self._refusal(event.chunk, place)
        if refusal is None and place is not None:
            self._in_flight.add(event.chunk.seq)
            return [Write(self._grant.blocks[place.ordinal], place.offset, place.length)]
        if refusal in _HOSTILE:
            return [Drop(refusal), *self._abort(reasons.KV_INTEGRITY, retryable=True)]
        return [Drop(refusal or "out_of_bounds")]

    def _refusal(self, chunk: Chunk, place: ChunkPlace | None) -> str | None:
        """Return the counter to blame if this chunk may not be written, else None (R2: receiver-side validation)."""
        if chunk.epoch != self._grant.dst_epoch:
            return "stale_epoch"
        if self.state is not ReceiverState.RECEIVING:
            return "unknown_transfer" if self.state is ReceiverState.EXPECTING else "duplicate_chunk"
        if place is None or chunk.offset != place.offset or chunk.length != place.length:
            return "out_of_bounds"
        granted = self._grant.blocks[place.ordinal]
        if chunk.block_id != granted.block_id:
            return "not_granted"
        if chunk.generation != granted.generation:
            return "stale_generation"
        if self._digests[chunk.seq] is not None or chunk.seq in self._in_flight:
            return "duplicate_chunk"
        return None

    def _on_landed(self, now_s: float, event: ChunkLanded) -> list[ReceiverAction]:
        chunk = event.chunk
        self._in_flight.discard(chunk.seq)
        if event.digest != chunk.digest:
            return [Drop("digest_mismatch"), *self._abort(reasons.KV_INTEGRITY, retryable=True)]
        self._digests[chunk.seq] = event.digest
        self._num_landed += 1
        self._num_bytes += chunk.length
        self._idle.progress(now_s)
        return [SendCredit(self._num_landed), *self._verify(now_s)]

    def _on_unplaced(self, now_s: float, event: ChunkUnplaced) -> list[ReceiverAction]:
        return [Drop("stale_generation"), *self._abort(reasons.KV_INTEGRITY, retryable=True)]

    def _on_seal(self, now_s: float, event: SealGot) -> list[ReceiverAction]:
        if self.state is ReceiverState.COMMITTED:
            return [SendCommit("")]
        if self._seal is not None or self.state is not ReceiverState.RECEIVING:
            return []
        self._seal = event.seal
        self._deadline_s = min(self._deadline_s, now_s + TOTAL_AFTER_SEAL_S)
        self._idle.rest(now_s)
        return self._verify(now_s)

    def _verify(self, now_s: float) -> list[ReceiverAction]:
        """READY needs both: every chunk counted (R4), and the seal over all of them."""
        seal = self._seal
        if seal is None or not self._is_complete():
            return []
        digests = b"".join(digest for digest in self._digests if digest is not None)
        mac = seal_mac(
            self.keys,
            fingerprint=self._grant.layout_fingerprint,
            token_digest=self._token_digest,
            sent=SealedRange(
                num_blocks=self._plan.num_blocks,
                first_ordinal=self._grant.first_ordinal,
                claim=self._grant.claim,
            ),
            digests=digests,
            payload=seal.payload,
        )
        counts = (seal.num_blocks, seal.num_chunks, seal.num_bytes)
        expected = (self._plan.num_blocks, len(digests) // DIGEST_BYTES, self._num_bytes)
        if counts != expected or not hmac.compare_digest(seal.mac, mac):
            return [Drop("digest_mismatch"), *self._abort(reasons.KV_INTEGRITY, retryable=True)]
        self.state = ReceiverState.VERIFIED
        return [Ready(seal.payload, seal.lag_us / 1e6)]

    def _is_complete(self) -> bool:
        return self._num_landed == self._plan.num_chunks

    def _on_adopted(self, now_s: float, event: Adopted) -> list[ReceiverAction]:
        if self.state is not ReceiverState.VERIFIED:
            return []
        self.state = ReceiverState.COMMITTED
        self._repeat_at_s = now_s + COMMIT_REPEAT_S
        self._give_up_at_s = now_s + LEASE_S
        return [SendCommit("")]

    def _on_commit_ack(self, now_s: float, event: CommitAckGot) -> list[ReceiverAction]:
        if self.state is not ReceiverState.COMMITTED:
            return []
        self.state = ReceiverState.DONE
        return [Forget()]

    def _on_abort_asked(self, now_s: float, event: AbortAsked) -> list[ReceiverAction]:
        is_over = self.state is ReceiverState.COMMITTED
        self.state = ReceiverState.DONE
        return [Forget()] if is_over else [SendAbort(event.reason), Forget()]

    def _on_peer_beat(self, now_s: float, event: PeerBeat) -> list[ReceiverAction]:
        # After the seal nothing is left for the sender to do: what is still missing was lost on the way, and its being
        # alive is no reason to wait for it.
        if not self._in_flight and self._seal is None:
            self._idle.rest(now_s)
        return []

    def _on_tick(self, now_s: float, event: Tick) -> list[ReceiverAction]:
        if self.state is ReceiverState.COMMITTED:
            return self._repeat_commit(now_s)
        if self.state is ReceiverState.VERIFIED:
            return []  # the verdict is ours and the worker is about to adopt: no clock takes it back
        is_idle = self.state is ReceiverState.RECEIVING and self._idle.expired(now_s)
        if now_s > self._deadline_s or is_idle:
            # Whether the request itself is too late is the router's to judge: here it is this hand-over that was.
            return self._abort(reasons.KV_TIMEOUT, retryable=True)
        return []

    def _repeat_commit(self, now_s: float) -> list[ReceiverAction]:
        if now_s >= self._give_up_at_s:
            self.state = ReceiverState.DONE
            return [Forget()]
        if now_s >= self._repeat_at_s:
            self._repeat_at_s = now_s + COMMIT_REPEAT_S
            return [SendCommit("")]
        return []

    def _abort(self, reason: str, *, retryable: bool) -> list[ReceiverAction]:
        return [SendAbort(reason), *self._fail(reason, retryable=retryable)]

    def _fail(self, reason: str, *, retryable: bool) -> list[ReceiverAction]:
        is_adopted = self.state in (ReceiverState.VERIFIED, ReceiverState.COMMITTED)
        if self.state is ReceiverState.VERIFIED:
            return []  # all bytes are here and verified: the sender's fate no longer matters
        self.state = ReceiverState.DONE
        return [Forget()] if is_adopted else [Failed(reason, retryable), Forget()]
