"""One connection from one sender and its thread: chunks in after their checks, verdicts and credits out."""

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

from .codec import HEADER_BYTES, decode, decode_header, encode
from .counters import CounterBox
from .errors import LayoutMismatch, LinkLost, ProtocolViolation
from .event_trace import trace_accepted, trace_stray
from .frames import Abort, Beat, Chunk, CommitAck, Credit, Frame, Open, Seal, SlotsFreed
from .grant import KvGrant
from .identity import TransferKey
from .machine import receiver_events as ev
from .machine.receiver import HandoverReceiver
from .memory import DestinationBlocks
from .threads import Waker
from .timing import RECEIVER_BEAT_S, RECEIVER_LINK_IDLE_S
from .transport.base import ReceivingChannel
from .transport.listen import Accepted
from .wire import read_exactly

_log = structlog.get_logger(__name__)
_POLL_S = 0.5
_CREDIT_EVERY_CHUNKS = 4
_LINGER_S = 0.002


@dataclass(slots=True, kw_only=True, eq=False)
class ReceivingTransfer:
    """One hand-over of a receiver service; changed only under the service's lock."""

    key: TransferKey
    machine: HandoverReceiver
    grant: KvGrant
    tag: bytes
    expected_at_s: float
    src_epoch: int = 0
    link: "ReceiverLink | None" = None

    def is_over(self) -> bool:
        """True once nothing may be written for it any more."""
        return self.machine.is_done


class LinkOwner(Protocol):
    """What a link asks of the service it belongs to."""

    def apply(self, transfer: ReceivingTransfer, event: ev.ReceiverEvent) -> list[ev.ReceiverAction]:
        """Feed one event to a transfer's machine, carry out what is not the link's, return all actions."""
        ...

    def open(self, link: "ReceiverLink", frame: Open) -> bool:
        """Bind a transfer to this link; False if there is no such transfer, or it belongs to another link."""
        ...

    def transfer_of(self, link: "ReceiverLink", tag: bytes) -> ReceivingTransfer | None:
        """Return the open transfer of this tag on this link."""
        ...

    def has_ended(self, tag: bytes) -> bool:
        """True if this tag was open once."""
        ...

    def transfers_on(self, link: "ReceiverLink") -> tuple[ReceivingTransfer, ...]:
        """Return the open transfers of this link."""
        ...

    def link_lost(self, link: "ReceiverLink", reason: str) -> None:
        """End every transfer of this link."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSettings:
    """What a link needs of its surroundings."""

    epoch: int
    block_bytes: int
    welcome: Callable[[], Accepted]
    destination: DestinationBlocks
    counters: CounterBox
    clock: Clock
    event_log: EventSink | None = None


class ReceiverLink:
    """Owns the connection. ``post`` is for any thread; everything else runs on the link's own."""

    def __init__(self, settings: LinkSettings, owner: LinkOwner) -> None:
        self._settings = settings
        self._owner = owner
        self._outbox: deque[Frame] = deque()
        self._credits: dict[bytes, tuple[int, int]] = {}  # by tag: the sender's epoch, chunks landed
        self._num_uncredited = 0
        self._num_slots_told = 0
        self._waker = Waker()
        self._channel: ReceivingChannel | None = None
        self._is_closing = False
        self._beat_at_s = 0.0
        self._busy_at_s = settings.clock.now_s()
        self._thread = threading.Thread(target=self._run, name="kv-receive", daemon=True)

    @property
    def transport(self) -> str:
        """Name of the transport in use; empty before the hand-shake."""
        return "" if self._channel is None else self._channel.name

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def post(self, frame: Frame) -> None:
        """Send a frame soon."""
        self._outbox.append(frame)
        if threading.current_thread() is not self._thread:
            self._waker.wake()

    def post_credit(self, tag: bytes, epoch: int, num_landed: int) -> None:
        """Send a credit soon (link thread only). They are merged: only the newest of a transfer goes out."""
        self._credits[tag] = (epoch, num_landed)
        self._num_uncredited += 1

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
        counters = self._settings.counters
        try:
            accepted = self._settings.welcome()
            self._channel = accepted.channel
            self._serve(accepted.channel)
        except ProtocolViolation as error:
            counters.add("bad_frames")
            _log.warning("kv peer broke the protocol", problem=error.message)
        except LayoutMismatch as error:
            counters.add("refused_connections")
            _log.warning("kv peer refused", problem=error.message)
        except LinkLost as error:
            counters.add("stale_epoch" if error.reason == "STALE_EPOCH" else "links_lost")
            _log.info("kv link ended", problem=error.message)
        except Exception:  # noqa: BLE001  loop shell: whatever it was, its transfers must end
            _log.exception("kv link failed")
        finally:
            if self._channel is not None:
                self._channel.close()
            self._owner.link_lost(self, LinkLost.reason)
            self._waker.close()

    def _serve(self, channel: ReceivingChannel) -> None:
        head = memoryview(bytearray(HEADER_BYTES))
        poller = select.poll()
        poller.register(channel.wire.fileno(), select.POLLIN)
        poller.register(self._waker.fileno(), select.POLLIN)
        while not self._is_closing:
            got = channel.wire.read_available_into(head)
            if got == 0:
                if not self._wait(channel, poller):
                    return
                continue
            if got < HEADER_BYTES:
                channel.wire.read_into(head[got:])
            self._on_frame(channel, head)
            if self._outbox or self._num_uncredited >= _CREDIT_EVERY_CHUNKS:
                self._flush(channel)
                self._keep_up(channel)

    def _wait(self, channel: ReceivingChannel, poller: select.poll) -> bool:
        """Wait for bytes or a frame to send; False if this link has been idle long enough to end.

        Credits owed are kept back for a moment: most often the next chunk is almost here, and a packet per chunk would
        cost the sender more than the chunk's checks do.
        """
        if self._outbox or not self._owes_credit(channel) or not poller.poll(_LINGER_S * 1000):
            self._flush(channel)
            poller.poll(_POLL_S * 1000)
        self._waker.drain()
        return self._keep_up(channel)

    def _owes_credit(self, channel: ReceivingChannel) -> bool:
        return self._num_uncredited > 0 or channel.slots_to_return() != self._num_slots_told

    def _on_frame(self, channel: ReceivingChannel, head: memoryview) -> None:
        header = decode_header(head)
        payload = b""
        if header.payload_bytes and not header.is_chunk:
            payload = read_exactly(channel.wire, header.payload_bytes)
        frame = decode(header, payload)
        if isinstance(frame, Chunk):
            self._on_chunk(channel, frame)
            return
        match frame:
            case Open(tag):
                if not self._owner.open(self, frame):
                    self.post(Abort(tag, frame.src_epoch, LinkLost.reason))
            case Seal(tag, epoch):
                self._feed(tag, epoch, ev.SealGot(frame))
            case Abort(tag, epoch, reason):
                self._feed(tag, epoch, ev.AbortGot(reason))
            case CommitAck(tag, epoch):
                self._feed(tag, epoch, ev.CommitAckGot())
            case Beat(_, tags):
                for transfer in self._owner.transfers_on(self):
                    if transfer.tag in tags:
                        self._owner.apply(transfer, ev.PeerBeat())
            case _:
                raise ProtocolViolation(f"{type(frame).__name__}: a sender never sends this here")

    def _on_chunk(self, channel: ReceivingChannel, chunk: Chunk) -> None:
        transfer = self._owner.transfer_of(self, chunk.tag)
        if transfer is None:
            counter = self._count_stray(chunk.tag, chunk.epoch)
            if self._settings.event_log is not None:
                trace_stray(self._settings.event_log, chunk, counter)
            channel.discard(chunk)
            return
        actions = self._owner.apply(transfer, ev.ChunkArrived(chunk))
        write = actions[0]
        if not isinstance(write, ev.Write):
            if len(actions) > 1:
                self._flush(channel)
                raise ProtocolViolation("chunk: outside the grant")
            channel.discard(chunk)
            return
        event = self._land(channel, transfer, chunk, write)
        if event is not None:
            self._owner.apply(transfer, event)
            if transfer.machine.is_half_landed:
                failpoint("d.received_half")

    def _land(
        self, channel: ReceivingChannel, transfer: ReceivingTransfer, chunk: Chunk, write: ev.Write
    ) -> ev.ReceiverEvent | None:
        """Put the payload into its block while the block table holds it for us."""
        destination = self._settings.destination
        block = destination.begin_write(write.ref, transfer.key)
        if block is None:
            channel.discard(chunk)
            return ev.ChunkUnplaced(chunk)
        try:
            if block.nbytes != self._settings.block_bytes:
                raise ValueError(f"destination block has {block.nbytes} bytes, not {self._settings.block_bytes}")
            target = block[write.offset : write.offset + write.length]
            digest = channel.receive(chunk, target, seed=transfer.machine.keys.seed, stopped=transfer.is_over)
            if self._settings.event_log is not None:
                trace_accepted(self._settings.event_log, transfer.key, chunk, write.ref)
        finally:
            destination.end_write(write.ref, transfer.key)
        if digest is None:
            channel.discard(chunk)
            return None
        self._settings.counters.add_chunk(write.length)
        return ev.ChunkLanded(chunk, digest)

    def _feed(self, tag: bytes, epoch: int, event: ev.ReceiverEvent) -> None:
        transfer = self._owner.transfer_of(self, tag)
        if transfer is not None and epoch == self._settings.epoch:
            self._owner.apply(transfer, event)
        elif not self._owner.has_ended(tag):
            self._count_stray(tag, epoch)

    def _count_stray(self, tag: bytes, epoch: int) -> str:
        """A frame of no open transfer: an earlier life of this worker, of the blocks, or nobody's. Name its counter."""
        if epoch != self._settings.epoch:
            counter = "stale_epoch"
        else:
            counter = "stale_generation" if self._owner.has_ended(tag) else "unknown_transfer"
        self._settings.counters.add(counter)
        return counter

    def _flush(self, channel: ReceivingChannel) -> None:
        frames: list[Frame] = []
        while self._outbox:
            frames.append(self._outbox.popleft())
        frames.extend(Credit(tag, epoch, num_landed) for tag, (epoch, num_landed) in self._credits.items())
        self._credits.clear()
        self._num_uncredited = 0
        num_freed = channel.slots_to_return()
        if num_freed != self._num_slots_told:
            self._num_slots_told = num_freed
            frames.append(SlotsFreed(num_freed))
        if frames:
            channel.wire.send(b"".join(encode(frame) for frame in frames))

    def _keep_up(self, channel: ReceivingChannel) -> bool:
        """Beat for what is still wanted; False if this link has been idle long enough to end."""
        now_s = self._settings.clock.now_s()
        if now_s < self._beat_at_s:
            return True
        self._beat_at_s = now_s + RECEIVER_BEAT_S
        transfers = self._owner.transfers_on(self)
        if transfers:
            self._busy_at_s = now_s
            tags = tuple(transfer.tag for transfer in transfers if transfer.machine.is_wanted)
            channel.wire.send(encode(Beat(self._settings.epoch, tags)))
        return now_s - self._busy_at_s < RECEIVER_LINK_IDLE_S
