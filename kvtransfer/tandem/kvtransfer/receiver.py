"""The decode worker's half of the hand-over: grants blocks, receives into them, adopts what verifies.

Threads: one per connection (``kv-receive``), one that accepts (``kv-accept``) and one for callbacks and time-outs
(``kv-receive-events``). Every public method may be called from any thread and returns at once.
"""

import secrets
import ssl
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import structlog

from tandem.core import reasons
from tandem.core.clock import Clock
from tandem.core.errors import InvalidArgument, Unavailable
from tandem.core.event_log import EventSink

from .counters import CounterBox, Counters
from .event_trace import trace_grant, trace_receiver
from .frames import Abort, Commit, Open
from .grant import MAX_CHUNK_BYTES, MAX_DEADLINE_S, MAX_GRANT_BLOCKS, BlockRef, KvEndpoint, KvGrant, TransportName
from .identity import SECRET_BYTES, TransferKey, transfer_tag
from .layout import KvLayout
from .machine import receiver_events as ev
from .machine.receiver import HandoverReceiver
from .memory import DestinationBlocks
from .receiver_link import LinkOwner, LinkSettings, ReceiverLink, ReceivingTransfer
from .recent import RecentSet
from .skipped import SkippedPrefix, prefix_claim
from .stats import TransferStats
from .threads import ServiceThread, ThreadFactory
from .transport.door import Door, DoorSettings, ListeningDoor, Welcome
from .transport.listen import Identity

__all__ = ["KvReceiverService", "ReceiverEvents", "TransferStats"]

_log = structlog.get_logger(__name__)
_TICK_S = 0.25
_MAX_LINKS = 256


def _draw_secret() -> bytes:
    return secrets.token_bytes(SECRET_BYTES)


class ReceiverEvents(Protocol):
    """Called on the service's event thread, one at a time. Exactly one call per hand-over that was not aborted here."""

    def on_ready(self, key: TransferKey, payload: bytes, stats: TransferStats) -> None:
        """Every byte came and verified: adopt the blocks. The sender is told to free its own when this returns."""
        ...

    def on_failed(self, key: TransferKey, reason: str, retryable: bool) -> None:
        """The hand-over will not happen: free the blocks. ``reason`` is from ``tandem.core.reasons``."""
        ...


class KvReceiverService:
    """Receives KV into this worker's blocks, from whoever holds a grant of this process."""

    def __init__(
        self,
        *,
        worker_id: str,
        epoch: int,
        layout: KvLayout,
        destination: DestinationBlocks,
        events: ReceiverEvents,
        listen_host: str,
        clock: Clock,
        tls: ssl.SSLContext | None = None,
        transports: Sequence[TransportName] = ("shm", "tcp"),
        listen_port: int = 0,
        advertise_address: str | None = None,
        make_door: Callable[[DoorSettings, Identity, Callable[[Welcome], bool]], Door] = ListeningDoor,
        make_link: Callable[[LinkSettings, LinkOwner], ReceiverLink] = ReceiverLink,
        make_thread: ThreadFactory = ServiceThread.ticking,
        draw_secret: Callable[[], bytes] = _draw_secret,
        event_log: EventSink | None = None,
    ) -> None:
        """Listen at once; port 0 = any free one.

        ``advertise_address`` (host:port) is what senders connect to over TCP, where it is not what is bound here. What
        the three makers and ``draw_secret`` bring is sockets, threads and chance: a simulation brings its own.
        """
        self._identity = Identity(worker_id=worker_id, epoch=epoch, fingerprint=bytes.fromhex(layout.fingerprint))
        self._fingerprint = layout.fingerprint
        self._block_bytes = layout.block_bytes
        self._destination = destination
        self._events = events
        self._event_log = event_log
        self._clock = clock
        self._lock = threading.RLock()
        self._transfers: dict[TransferKey, ReceivingTransfer] = {}
        self._by_tag: dict[bytes, ReceivingTransfer] = {}
        self._links: set[ReceiverLink] = set()
        self._ended_keys: RecentSet[TransferKey] = RecentSet()
        self._ended_tags: RecentSet[bytes] = RecentSet()
        self._counters = CounterBox()
        self._is_closed = False
        settings = DoorSettings(
            transports=transports,
            listen_host=listen_host,
            listen_port=listen_port,
            advertise_address=advertise_address,
            tls=tls,
        )
        self._make_link = make_link
        self._draw_secret = draw_secret
        self._thread = make_thread("kv-receive-events", self._tick, _TICK_S)
        self._door = make_door(settings, self._identity, self._admit)

    @property
    def endpoints(self) -> tuple[KvEndpoint, ...]:
        """Where senders reach this service; part of every grant."""
        return self._door.endpoints

    def expect(
        self,
        key: TransferKey,
        refs: Sequence[BlockRef],
        token_digest: bytes,
        deadline_left_s: float | None,
        skipped: SkippedPrefix | None = None,
    ) -> KvGrant:
        """Grant these blocks, in prompt order, to whoever gets the returned grant; ``skipped`` are those before them.

        The blocks must be RECEIVING for ``key`` in the block table already, and the skipped ones must stay readable for
        it until the hand-over is over. Raises InvalidArgument for a key that was used before, no blocks at all, or
        skipped ones without a name; Unavailable after ``close``.
        """
        num_skipped = skipped.num_blocks if skipped is not None else 0
        if not 1 <= num_skipped + len(refs) <= MAX_GRANT_BLOCKS:
            raise InvalidArgument("refs", f"{len(refs)} blocks", remedy=f"grant between 1 and {MAX_GRANT_BLOCKS}")
        secret = self._draw_secret()
        claim = prefix_claim(secret, fingerprint=self._fingerprint, skipped=skipped)
        if num_skipped and not claim:
            raise InvalidArgument("skipped", f"{num_skipped} blocks without the name of the last one")
        grant = KvGrant(
            request_id=key.request_id,
            attempt=key.attempt,
            layout_fingerprint=self._fingerprint,
            dst_worker_id=self._identity.worker_id,
            dst_epoch=self._identity.epoch,
            blocks=tuple(refs),
            chunk_bytes=min(MAX_CHUNK_BYTES, self._block_bytes),
            endpoints=self._door.endpoints,
            secret=secret,
            deadline_left_s=MAX_DEADLINE_S
            if deadline_left_s is None
            else min(max(0.0, deadline_left_s), MAX_DEADLINE_S),
            first_ordinal=num_skipped,
            claim=claim,
        )
        with self._lock:
            if self._is_closed:
                raise Unavailable("this worker's KV receiver is closed")
            if key in self._transfers or key in self._ended_keys:
                raise InvalidArgument("key", f"attempt {key.attempt} of this request was granted before")
            now_s = self._clock.now_s()
            machine = HandoverReceiver(
                grant=grant, block_bytes=self._block_bytes, token_digest=token_digest, now_s=now_s
            )
            tag = transfer_tag(grant.secret, key, dst_epoch=grant.dst_epoch)
            transfer = ReceivingTransfer(key=key, machine=machine, grant=grant, tag=tag, expected_at_s=now_s)
            self._transfers[key] = self._by_tag[tag] = transfer
            if self._event_log is not None:
                trace_grant(self._event_log, grant)
        return grant

    def abort(self, key: TransferKey, reason: str) -> None:
        """Stop receiving and tell the sender. No callback follows, and no write begins after it. Idempotent.

        The blocks may be freed at once: one being written right now is held by ``begin_write`` until ``end_write``.
        """
        with self._lock:
            transfer = self._transfers.get(key)
            if transfer is None:
                self._ended_keys.add(key)
            else:
                self.apply(transfer, ev.AbortAsked(reason))

    def wanted(self) -> tuple[TransferKey, ...]:
        """Return the hand-overs whose bytes are still needed from their senders."""
        with self._lock:
            return tuple(key for key, transfer in self._transfers.items() if transfer.machine.is_wanted)

    @property
    def num_open(self) -> int:
        """Hand-overs that are not over."""
        return len(self._transfers)

    def snapshot(self) -> Counters:
        """Return the counters."""
        return self._counters.snapshot()

    def close(self) -> None:
        """End listeners, connections and threads. No callback comes after it. Idempotent."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        self._door.close()
        with self._lock:
            links = tuple(self._links)
        for link in links:
            link.close()
        for link in links:
            link.join()
        self._thread.close()

    # --- used by the links -----------------------------------------------------------------------------------------

    def apply(self, transfer: ReceivingTransfer, event: ev.ReceiverEvent) -> list[ev.ReceiverAction]:
        """Feed one event to a transfer's machine, carry out what is not the link's, return all actions."""
        with self._lock:
            actions = transfer.machine.on_event(self._clock.now_s(), event)
            if self._event_log is not None:
                trace_receiver(self._event_log, transfer.grant, event, actions)
            for action in actions:
                if not isinstance(action, ev.Write):
                    self._carry_out(transfer, action)
            return actions

    def open(self, link: ReceiverLink, frame: Open) -> bool:
        """Bind a transfer to this link; False if there is no such transfer, or it belongs to another link."""
        with self._lock:
            transfer = self._by_tag.get(frame.tag)
            if frame.epoch != self._identity.epoch:
                self._counters.add("stale_epoch")
                return False
            if transfer is None or transfer.link not in (None, link):
                self._counters.add("unknown_transfer")
                return False
            transfer.link = link
            transfer.src_epoch = frame.src_epoch
            self.apply(transfer, ev.Opened(frame))
            return True

    def transfer_of(self, link: ReceiverLink, tag: bytes) -> ReceivingTransfer | None:
        """Return the open transfer of this tag on this link."""
        with self._lock:
            transfer = self._by_tag.get(tag)
            return transfer if transfer is not None and transfer.link is link else None

    def has_ended(self, tag: bytes) -> bool:
        """True if this tag was open once."""
        with self._lock:
            return tag in self._ended_tags

    def transfers_on(self, link: ReceiverLink) -> tuple[ReceivingTransfer, ...]:
        """Return the open transfers of this link."""
        with self._lock:
            return tuple(transfer for transfer in self._transfers.values() if transfer.link is link)

    def link_lost(self, link: ReceiverLink, reason: str) -> None:
        """End every transfer of this link."""
        with self._lock:
            for transfer in self.transfers_on(link):
                transfer.link = None
                self.apply(transfer, ev.Ended(reason))
            self._links.discard(link)

    # --- private ---------------------------------------------------------------------------------------------------

    def _carry_out(self, transfer: ReceivingTransfer, action: ev.ReceiverAction) -> None:
        link, tag, epoch = transfer.link, transfer.tag, transfer.src_epoch
        match action:
            case ev.SendCredit(num_landed):  # first, because there is one per chunk
                if link is not None:
                    link.post_credit(tag, epoch, num_landed)
            case ev.Drop(counter):
                self._counters.add(counter)
            case ev.Ready(payload, sender_lag_s):
                self._call(partial(self._adopt, transfer, payload, self._stats(transfer, sender_lag_s)))
            case ev.Failed(reason, retryable):
                self._counters.add("num_failed")
                self._call(partial(self._events.on_failed, transfer.key, reason, retryable))
            case ev.Forget():
                self._end(transfer)
            case ev.SendCommit(reason) if link is not None:
                link.post(Commit(tag, epoch, reason))
            case ev.SendAbort(reason) if link is not None:
                link.post(Abort(tag, epoch, reason))

    def _adopt(self, transfer: ReceivingTransfer, payload: bytes, stats: TransferStats) -> None:
        """Hand verified KV to the worker, then tell the sender. If the worker can't take it, neither side keeps it."""
        if transfer.is_over():
            return
        try:
            self._events.on_ready(transfer.key, payload, stats)
        except Exception:
            self.apply(transfer, ev.AbortAsked(reasons.ENGINE))
            raise
        self._counters.add_committed(stats)
        self.apply(transfer, ev.Adopted())

    def _call(self, callback: Callable[[], None]) -> None:
        if not self._is_closed:
            self._thread.post(callback)

    def _end(self, transfer: ReceivingTransfer) -> None:
        self._transfers.pop(transfer.key, None)
        self._by_tag.pop(transfer.tag, None)
        self._ended_keys.add(transfer.key)
        self._ended_tags.add(transfer.tag)

    def _stats(self, transfer: ReceivingTransfer, sender_lag_s: float) -> TransferStats:
        return TransferStats(
            transport="" if transfer.link is None else transfer.link.transport,
            num_bytes=transfer.machine.num_bytes_landed,
            num_chunks=transfer.machine.num_chunks_landed,
            total_s=self._clock.now_s() - transfer.expected_at_s,
            exposed_s=sender_lag_s,
            num_skipped_blocks=transfer.machine.num_blocks_skipped,
            num_skipped_bytes=transfer.machine.num_blocks_skipped * self._block_bytes,
        )

    def _tick(self) -> None:
        with self._lock:
            for transfer in tuple(self._transfers.values()):
                self.apply(transfer, ev.Tick())

    def _admit(self, welcome: Welcome) -> bool:
        """Take a connection in; False if there are too many already."""
        with self._lock:
            if self._is_closed or len(self._links) >= _MAX_LINKS:
                self._counters.add("refused_connections")
                return False
            settings = LinkSettings(
                epoch=self._identity.epoch,
                block_bytes=self._block_bytes,
                welcome=welcome,
                destination=self._destination,
                event_log=self._event_log,
                counters=self._counters,
                clock=self._clock,
            )
            link = self._make_link(settings, self)
            self._links.add(link)
        link.start()
        return True
