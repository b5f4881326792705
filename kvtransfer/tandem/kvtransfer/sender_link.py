"""One connection to one receiver and the thread that owns it: actions out, verdicts and credits in."""

import select
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from tandem.core.clock import Clock
from tandem.core.event_log import EventSink
from tandem.core.failpoints import failpoint

from .codec import encode
from .counters import CounterBox
from .errors import LayoutMismatch, LinkLost, ProtocolViolation
from .event_trace import trace_refused_read
from .frames import Abort, Beat, Chunk, Commit, CommitAck, Credit, Frame, Hello, Open, Seal, SlotsFreed
from .grant import KvEndpoint, KvGrant
from .identity import TransferKey
from .machine import sender_events as ev
from .machine.sender import HandoverSender
from .memory import SourceBlocks
from .reader import FrameReader
from .threads import Waker
from .timing import SENDER_BEAT_S, SENDER_LINK_IDLE_S
from .transport.base import SendingChannel

_log = structlog.get_logger(__name__)
_READ_BYTES = 64 * 1024
_ACTIONS_PER_READ = 4


@dataclass(slots=True, kw_only=True, eq=False)
class SendingTransfer:
    """One hand-over of a sender service; changed only under the service's lock."""

    key: TransferKey
    machine: HandoverSender
    grant: KvGrant | None = None
    tag: bytes = b""
    link: "SenderLink | None" = None


class LinkOwner(Protocol):
    """What a link tells the service it belongs to."""

    def apply(self, transfer: SendingTransfer, event: ev.SenderEvent) -> None:
        """Feed one event to a transfer's machine and carry out its actions."""
        ...

    def transfer_of(self, link: "SenderLink", tag: bytes) -> SendingTransfer | None:
        """Return the open transfer of this tag on this link."""
        ...

    def has_ended(self, tag: bytes) -> bool:
        """True if this tag was open once."""
        ...

    def transfers_on(self, link: "SenderLink") -> tuple[SendingTransfer, ...]:
        """Return the open transfers of this link."""
        ...

    def retire(self, link: "SenderLink") -> bool:
        """Take an idle link out of use; False if a transfer joined it meanwhile."""
        ...

    def link_lost(self, link: "SenderLink", reason: str, *, retryable: bool) -> None:
        """End every transfer of this link."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSettings:
    """What a link needs of its surroundings."""

    src_epoch: int
    dst_epoch: int
    block_bytes: int
    endpoints: tuple[KvEndpoint, ...]
    hello: Hello
    connect: Callable[[KvEndpoint, Hello], SendingChannel]
    source: SourceBlocks
    counters: CounterBox
    clock: Clock
    event_log: EventSink | None = None


class SenderLink:
    """Owns the connection. ``post`` is for any thread; everything else runs on the link's own."""

    def __init__(self, settings: LinkSettings, owner: LinkOwner) -> None:
        self._settings = settings
        self._owner = owner
        self._actions: deque[tuple[SendingTransfer, ev.SenderAction]] = deque()
        self._waker = Waker()
        self._reader = FrameReader()
        self._channel: SendingChannel | None = None
        self._is_closing = False
        self._beat_at_s = 0.0
        self._busy_at_s = settings.clock.now_s()
        self._thread = threading.Thread(target=self._run, name="kv-send", daemon=True)

    @property
    def transport(self) -> str:
        """Name of the transport in use; empty before the connection stands."""
        return "" if self._channel is None else self._channel.name

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def post(self, transfer: SendingTransfer, action: ev.SenderAction) -> None:
        """Queue an action behind those before it."""
        self._actions.append((transfer, action))
        if threading.current_thread() is not self._thread:
            self._waker.wake()

    def close(self) -> None:
        """Ask the thread to end. ``join`` waits for it."""
        self._is_closing = True
        channel = self._channel
        if channel is not None:
            channel.wire.interrupt()
        self._waker.wake()

    def join(self) -> None:
        """Wait until the thread has ended (no effect from that thread itself)."""
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        reason, retryable = LinkLost.reason, True
        try:
            self._serve(self._connect())
        except LayoutMismatch as error:
            reason, retryable = error.reason, False
        except (LinkLost, ProtocolViolation) as error:
            if not self._is_closing:
                self._settings.counters.add("links_lost")
                _log.warning("kv link lost", problem=error.message)
        except Exception:  # noqa: BLE001  loop shell: whatever it was, its transfers must end
            _log.exception("kv link failed")
        finally:
            if self._channel is not None:
                self._channel.close()
            self._owner.link_lost(self, reason, retryable=retryable)
            self._waker.close()

    def _connect(self) -> SendingChannel:
        """Try the endpoints in the order of preference; the last one's error is the link's."""
        for endpoint in self._settings.endpoints[:-1]:
            try:
                self._channel = self._settings.connect(endpoint, self._settings.hello)
                return self._channel
            except LinkLost as error:
                _log.info("kv endpoint not reachable", transport=endpoint.transport, problem=error.message)
        self._channel = self._settings.connect(self._settings.endpoints[-1], self._settings.hello)
        return self._channel

    def _serve(self, channel: SendingChannel) -> None:
        poller = select.poll()
        poller.register(channel.wire.fileno(), select.POLLIN)
        poller.register(self._waker.fileno(), select.POLLIN)
        while not self._is_closing:
            self._read(channel)
            now_s = self._settings.clock.now_s()
            if now_s >= self._beat_at_s and not self._keep_up(channel, now_s):
                return
            is_busy = True
            for _ in range(_ACTIONS_PER_READ):
                is_busy = is_busy and self._step(channel)
            if not is_busy:
                self._read(channel)
                if not self._step(channel):
                    poller.poll(SENDER_BEAT_S * 1000)
                    self._waker.drain()

    def _step(self, channel: SendingChannel) -> bool:
        """Carry out one action; False if there is none that can go now."""
        if not self._actions:
            return False
        transfer, action = self._actions[0]
        if isinstance(action, ev.SendChunk):
            if not transfer.machine.is_done:
                if not channel.can_send():
                    return False
                self._actions.popleft()
                self._send_chunk(channel, transfer, action)
                return True
            self._actions.popleft()
            return True
        self._actions.popleft()
        frame = self._frame(transfer, action)
        if frame is not None:
            channel.wire.send(encode(frame))
        return True

    def _send_chunk(self, channel: SendingChannel, transfer: SendingTransfer, action: ev.SendChunk) -> None:
        """Re-validate the source, copy out under the pin, report (R3)."""
        failpoint("p.before_chunk_send")
        source = self._settings.source
        block = source.pin(action.source, transfer.key)
        if block is None:
            self._settings.counters.add("stale_source")
            if self._settings.event_log is not None:
                trace_refused_read(self._settings.event_log, transfer.key, action.source)
            self._owner.apply(transfer, ev.SourceGone())
            return
        try:
            if block.nbytes != self._settings.block_bytes:
                raise ValueError(f"source block has {block.nbytes} bytes, its layout {self._settings.block_bytes}")
            head = Chunk(
                transfer.tag,
                self._settings.dst_epoch,
                action.seq,
                action.target.block_id,
                action.target.generation,
                action.offset,
                action.length,
                b"",
                None,
            )
            payload = block[action.offset : action.offset + action.length]
            digest = channel.send_chunk(head, payload, seed=transfer.machine.seed)
        finally:
            source.unpin(action.source, transfer.key)
        self._settings.counters.add_chunk(action.length)
        self._owner.apply(transfer, ev.ChunkSent(action.seq, digest))

    def _frame(self, transfer: SendingTransfer, action: ev.SenderAction) -> Frame | None:
        tag, epoch = transfer.tag, self._settings.dst_epoch
        match action:
            case ev.SendOpen() if transfer.grant is not None:
                grant = transfer.grant
                return Open(
                    tag,
                    self._settings.src_epoch,
                    epoch,
                    grant.attempt,
                    len(grant.blocks),
                    grant.chunk_bytes,
                    grant.request_id,
                    grant.first_ordinal,
                )
            case ev.SendSeal(num_blocks, num_chunks, num_bytes, mac, payload, sealed_at_s):
                lag_us = int((self._settings.clock.now_s() - sealed_at_s) * 1e6)
                lag_us = min(max(lag_us, 0), (1 << 32) - 1)
                return Seal(tag, epoch, num_blocks, num_chunks, num_bytes, lag_us, mac, payload)
            case ev.SendCommitAck():
                return CommitAck(tag, epoch)
            case ev.SendAbort(reason):
                return Abort(tag, epoch, reason)
        return None

    def _keep_up(self, channel: SendingChannel, now_s: float) -> bool:
        """Beat for the open transfers; False if the link has been idle long enough to end."""
        self._beat_at_s = now_s + SENDER_BEAT_S
        tags = tuple(transfer.tag for transfer in self._owner.transfers_on(self))
        if tags or self._actions:
            self._busy_at_s = now_s
            channel.wire.send(encode(Beat(self._settings.src_epoch, tags)))
            return True
        return now_s - self._busy_at_s < SENDER_LINK_IDLE_S or not self._owner.retire(self)

    def _read(self, channel: SendingChannel) -> None:
        data = channel.wire.read_available(_READ_BYTES)
        while data:
            for frame in self._reader.feed(data):
                self._on_frame(channel, frame)
            if len(data) < _READ_BYTES:
                return
            data = channel.wire.read_available(_READ_BYTES)

    def _on_frame(self, channel: SendingChannel, frame: Frame) -> None:
        match frame:
            case SlotsFreed(num_freed):
                channel.slots_freed(num_freed)
            case Beat(_, tags):
                wanted = frozenset(tags)
                for transfer in self._owner.transfers_on(self):
                    self._owner.apply(transfer, ev.BeatGot(transfer.tag in wanted))
            case Credit(tag, epoch, num_landed):
                self._feed(tag, epoch, ev.CreditGiven(num_landed))
            case Abort(tag, epoch, reason):
                self._feed(tag, epoch, ev.AbortGot(reason))
            case Commit(tag, epoch, reason):
                if self._owner.has_ended(tag):
                    channel.wire.send(encode(CommitAck(tag, self._settings.dst_epoch)))
                else:
                    self._feed(tag, epoch, ev.CommitGot(reason))
            case _:
                raise ProtocolViolation(f"{type(frame).__name__}: a receiver never sends this")

    def _feed(self, tag: bytes, epoch: int, event: ev.SenderEvent) -> None:
        transfer = self._owner.transfer_of(self, tag)
        if epoch != self._settings.src_epoch:
            self._settings.counters.add("stale_epoch")
        elif transfer is not None:
            self._owner.apply(transfer, event)
        elif not self._owner.has_ended(tag):
            self._settings.counters.add("unknown_transfer")
