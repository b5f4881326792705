"""The prefill worker's half of the hand-over: offers finished blocks, streams them, holds them until they are taken.

Threads: one per connection (``kv-send``) and one for callbacks and time-outs (``kv-send-events``). Every public method
may be called from any thread and returns at once.
"""

import ssl
import threading
from collections.abc import Callable
from functools import partial
from typing import Protocol

from tandem.core import reasons
from tandem.core.clock import Clock
from tandem.core.event_log import EventSink

from .counters import CounterBox, Counters
from .event_trace import trace_sender
from .frames import Hello
from .grant import BlockRef, KvEndpoint, KvGrant
from .host import host_id
from .identity import TransferKey, transfer_tag
from .layout import KvLayout, require_same_layout
from .machine import sender_events as ev
from .machine.lease import LeaseDropped, LeaseRenewed, LeaseScan, LeaseStarted, LeaseTable
from .machine.sender import HandoverSender
from .memory import SourceBlocks
from .recent import RecentSet
from .sender_link import LinkOwner, LinkSettings, SenderLink, SendingTransfer
from .skipped import SkippedPrefix, prefix_claim
from .stats import TransferStats
from .threads import ServiceThread, ThreadFactory
from .timers import LeaseTimers
from .transport.connect import connect

__all__ = ["KvSenderService", "SenderEvents", "TransferStats"]

_PREFERENCE = ("shm", "tcp")


class SenderEvents(Protocol):
    """Called on the service's event thread, one at a time. Exactly one call per hand-over that was not aborted here."""

    def on_committed(self, key: TransferKey, stats: TransferStats) -> None:
        """The receiver has adopted the KV: free the source blocks."""
        ...

    def on_failed(self, key: TransferKey, reason: str, retryable: bool) -> None:
        """The hand-over will not happen: free the source blocks. ``reason`` is from ``tandem.core.reasons``."""
        ...


class KvSenderService:
    """Sends KV of finished prompts to the workers that granted blocks for them."""

    def __init__(
        self,
        *,
        worker_id: str,
        epoch: int,
        layout: KvLayout,
        source: SourceBlocks,
        events: SenderEvents,
        clock: Clock,
        tls: ssl.SSLContext | None = None,
        make_link: Callable[[LinkSettings, LinkOwner], SenderLink] = SenderLink,
        make_thread: ThreadFactory = ServiceThread.ticking,
        event_log: EventSink | None = None,
        timers: LeaseTimers | None = None,
    ) -> None:
        """``make_link`` and ``make_thread`` make what has threads and sockets: a simulation brings its own."""
        self._worker_id = worker_id
        self._epoch = epoch
        self._fingerprint = layout.fingerprint
        self._block_bytes = layout.block_bytes
        self._source = source
        self._events = events
        self._event_log = event_log
        self._clock = clock
        self._connect = partial(connect, tls=tls)
        self._host_id = host_id()
        self._lock = threading.RLock()
        self._transfers: dict[TransferKey, SendingTransfer] = {}
        self._by_tag: dict[bytes, SendingTransfer] = {}
        self._links: dict[tuple[int, tuple[KvEndpoint, ...]], SenderLink] = {}
        self._old_links: set[SenderLink] = set()
        timers = timers or LeaseTimers()
        self._leases = LeaseTable(lease_s=timers.lease_s, renewal_s=timers.renewal_s)
        self._ended_keys: RecentSet[TransferKey] = RecentSet()
        self._ended_tags: RecentSet[bytes] = RecentSet()
        self._counters = CounterBox()
        self._is_closed = False
        self._make_link = make_link
        self._thread = make_thread("kv-send-events", self._tick, timers.scan_period_s)

    def grant(self, grant: KvGrant, prefix_key: bytes = b"") -> None:
        """Take a receiver's grant; streaming starts with the blocks offered so far.

        ``prefix_key`` names this side's last block before ``grant.first_ordinal``; if it is not the block that the
        receiver means, the hand-over fails as KV_PREFIX. Empty: nothing is left out, or no such block has a name here.

        Raises LayoutMismatch, before any byte is sent, if the receiver stores KV differently; the hand-over is then
        over and gets no callback. Repeated grants and grants of an aborted hand-over do nothing.
        """
        try:
            require_same_layout(own=self._fingerprint, other=grant.layout_fingerprint)
        except Exception:
            self.abort(grant.key, reasons.KV_LAYOUT)
            raise
        with self._lock:
            transfer = self._get_or_create(grant.key)
            if transfer is None or transfer.grant is not None:
                return
            transfer.grant = grant
            transfer.tag = transfer_tag(grant.secret, grant.key, dst_epoch=grant.dst_epoch)
            self._by_tag[transfer.tag] = transfer
            transfer.link = self._link_for(grant)
            skipped = SkippedPrefix(num_blocks=grant.first_ordinal, last_key=prefix_key)
            claim = prefix_claim(grant.secret, fingerprint=self._fingerprint, skipped=skipped)
            self.apply(transfer, ev.Granted(grant, claim))

    def offer(self, key: TransferKey, ordinal: int, ref: BlockRef) -> None:
        """Block ``ordinal`` (0, 1, … in prompt order) of this hand-over is final and may be sent. Repeats do nothing.

        Offer all, also those that a grant may leave out: they are sent only where the receiver lacks them.

        The blocks must stay the request's own until a callback or ``abort``; the service pins one per chunk.
        """
        with self._lock:
            transfer = self._get_or_create(key)
            if transfer is not None:
                self.apply(transfer, ev.Offered(ordinal, ref))

    def seal(self, key: TransferKey, num_blocks: int, token_digest: bytes, payload: bytes) -> None:
        """No more blocks will come. ``payload`` (at most 1 MiB) reaches the receiver's ``on_ready``, authenticated.

        ``token_digest`` is over the prompt's token ids, computed alike on both sides. A lease of 15 s begins.
        """
        with self._lock:
            transfer = self._get_or_create(key)
            if transfer is not None:
                self.apply(transfer, ev.Sealed(num_blocks, token_digest, payload))

    def abort(self, key: TransferKey, reason: str) -> None:
        """Stop after the chunk being sent and tell the receiver. No callback follows. Idempotent, also in advance."""
        with self._lock:
            transfer = self._transfers.get(key)
            if transfer is None:
                self._ended_keys.add(key)
            else:
                self.apply(transfer, ev.AbortAsked(reason))

    def held(self) -> tuple[TransferKey, ...]:
        """Return the hand-overs that are not over."""
        with self._lock:
            return tuple(self._transfers)

    @property
    def num_open(self) -> int:
        """Hand-overs that are not over."""
        return len(self._transfers)

    def snapshot(self) -> Counters:
        """Return the counters."""
        return self._counters.snapshot()

    def close(self) -> None:
        """End every connection and thread. No callback comes after it. Idempotent."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            links = [*self._links.values(), *self._old_links]
        for link in links:
            link.close()
        for link in links:
            link.join()
        self._thread.close()

    # --- used by the links -----------------------------------------------------------------------------------------

    def apply(self, transfer: SendingTransfer, event: ev.SenderEvent) -> None:
        """Feed one event to a transfer's machine and carry out its actions."""
        with self._lock:
            actions = transfer.machine.on_event(self._clock.now_s(), event)
            if self._event_log is not None:
                trace_sender(self._event_log, transfer.key, event, actions)
            for action in actions:
                self._carry_out(transfer, action)
            if transfer.machine.is_done:
                self._end(transfer)

    def transfer_of(self, link: SenderLink, tag: bytes) -> SendingTransfer | None:
        """Return the open transfer of this tag on this link."""
        with self._lock:
            transfer = self._by_tag.get(tag)
            return transfer if transfer is not None and transfer.link is link else None

    def has_ended(self, tag: bytes) -> bool:
        """True if this tag was open once."""
        with self._lock:
            return tag in self._ended_tags

    def transfers_on(self, link: SenderLink) -> tuple[SendingTransfer, ...]:
        """Return the open transfers of this link."""
        with self._lock:
            return tuple(transfer for transfer in self._transfers.values() if transfer.link is link)

    def retire(self, link: SenderLink) -> bool:
        """Take an idle link out of use; False if a transfer joined it meanwhile."""
        with self._lock:
            if self.transfers_on(link):
                return False
            self._drop_link(link)
            return True

    def link_lost(self, link: SenderLink, reason: str, *, retryable: bool) -> None:
        """End every transfer of this link."""
        with self._lock:
            self._drop_link(link)
            for transfer in self.transfers_on(link):
                self.apply(transfer, ev.Ended(reason, retryable))
            self._old_links.discard(link)

    # --- private ---------------------------------------------------------------------------------------------------

    def _get_or_create(self, key: TransferKey) -> SendingTransfer | None:
        """None for a hand-over that is over: a late offer or grant must not revive it."""
        if self._is_closed or key in self._ended_keys:
            return None
        transfer = self._transfers.get(key)
        if transfer is None:
            machine = HandoverSender(
                key=key, fingerprint=self._fingerprint, block_bytes=self._block_bytes, now_s=self._clock.now_s()
            )
            transfer = self._transfers[key] = SendingTransfer(key=key, machine=machine)
        return transfer

    def _link_for(self, grant: KvGrant) -> SenderLink:
        usable = [e for e in grant.endpoints if e.transport == "tcp" or e.host_id == self._host_id != ""]
        endpoints = tuple(sorted(usable, key=lambda e: _PREFERENCE.index(e.transport)))
        identity = (grant.dst_epoch, endpoints)
        link = self._links.get(identity)
        if link is None:
            hello = Hello(bytes.fromhex(self._fingerprint), self._epoch, grant.dst_epoch, self._worker_id)
            settings = LinkSettings(
                src_epoch=self._epoch,
                dst_epoch=grant.dst_epoch,
                block_bytes=self._block_bytes,
                endpoints=endpoints,
                hello=hello,
                connect=self._connect,
                source=self._source,
                counters=self._counters,
                clock=self._clock,
                event_log=self._event_log,
            )
            link = self._links[identity] = self._make_link(settings, self)
            link.start()
        return link

    def _drop_link(self, link: SenderLink) -> None:
        """No new transfer joins this link; it stays known until its thread is through."""
        for identity, known in list(self._links.items()):
            if known is link:
                del self._links[identity]
                self._old_links.add(link)

    def _carry_out(self, transfer: SendingTransfer, action: ev.SenderAction) -> None:
        if isinstance(action, ev.SendChunk) and transfer.link is not None:  # by far the most common
            transfer.link.post(transfer, action)
            return
        match action:
            case ev.StartLease():
                self._leases.on_event(self._clock.now_s(), LeaseStarted(transfer.key))
            case ev.RenewLease():
                self._leases.on_event(self._clock.now_s(), LeaseRenewed(transfer.key))
            case ev.Committed():
                stats = self._stats(transfer)
                self._counters.add_committed(stats)
                self._call(partial(self._events.on_committed, transfer.key, stats))
            case ev.Failed(reason, retryable):
                self._counters.add("num_failed")
                self._call(partial(self._events.on_failed, transfer.key, reason, retryable))
            case _:
                if transfer.link is not None:
                    transfer.link.post(transfer, action)

    def _call(self, callback: Callable[[], None]) -> None:
        if not self._is_closed:
            self._thread.post(callback)

    def _end(self, transfer: SendingTransfer) -> None:
        if self._transfers.pop(transfer.key, None) is None:
            return
        self._leases.on_event(self._clock.now_s(), LeaseDropped(transfer.key))
        self._ended_keys.add(transfer.key)
        if transfer.tag:
            self._by_tag.pop(transfer.tag, None)
            self._ended_tags.add(transfer.tag)

    def _stats(self, transfer: SendingTransfer) -> TransferStats:
        now_s = self._clock.now_s()
        machine = transfer.machine
        sealed_at_s = now_s if machine.sealed_at_s is None else machine.sealed_at_s
        return TransferStats(
            transport="" if transfer.link is None else transfer.link.transport,
            num_bytes=machine.num_bytes_sent,
            num_chunks=machine.num_chunks_sent,
            total_s=now_s - machine.granted_at_s,
            exposed_s=now_s - sealed_at_s,
            num_skipped_blocks=machine.num_blocks_skipped,
            num_skipped_bytes=machine.num_blocks_skipped * self._block_bytes,
        )

    def _tick(self) -> None:
        with self._lock:
            for expired in self._leases.on_event(self._clock.now_s(), LeaseScan()):
                transfer = self._transfers.get(expired.key)
                if transfer is not None:
                    self.apply(transfer, ev.Ended(reasons.KV_LEASE, True))
            for transfer in tuple(self._transfers.values()):
                self.apply(transfer, ev.Tick())
