"""Both hand-over machines over a hostile network on virtual time: messages are lost, repeated, held and reordered.

One ``KvWorld`` is one prefill worker, one decode worker, and a bag of messages. Contents are tagged with their owner,
so a foreign, stale or torn byte is seen at the write or, at the latest, at Ready. The dispatch by tag is the service's.
"""

import random
from dataclasses import dataclass, field

from xxhash import xxh3_128_digest

from tandem.core.blocks import AttemptKey, BlockRef
from tandem.core.ids import RequestId
from tandem.kvtransfer import KvEndpoint, KvGrant
from tandem.kvtransfer.frames import Abort, Chunk, Commit, CommitAck, Credit, Open, Seal
from tandem.kvtransfer.identity import transfer_tag
from tandem.kvtransfer.machine import receiver_events as rx
from tandem.kvtransfer.machine import sender_events as tx
from tandem.kvtransfer.machine.receiver import HandoverReceiver
from tandem.kvtransfer.machine.sender import HandoverSender
from tests.fakes.kv_blocks import FakeBlocks

BLOCK_BYTES = 8
CHUNK_BYTES = 4
FINGERPRINT = "0" * 64
SRC_EPOCH = 1
Message = KvGrant | Open | Chunk | Seal | Commit | CommitAck | Abort | Credit


class Violation(Exception):
    """A byte got where it must not be."""


@dataclass
class _Sending:
    machine: HandoverSender
    refs: list[BlockRef]
    grant: KvGrant | None = None
    tag: bytes = b""
    queue: list[tx.SenderAction] = field(default_factory=list)


@dataclass
class _Receiving:
    machine: HandoverReceiver
    grant: KvGrant
    tag: bytes


def content(key: AttemptKey, ordinal: int) -> bytes:
    """What block ``ordinal`` of this attempt must hold: two distinguishable chunks."""
    number = int(key.request_id, 16) * 8 + key.attempt
    return bytes([number, ordinal, 0, 1, number, ordinal, 1, 1])


class KvWorld:
    """Ask for steps by ``step``; raises Violation when a rule of §3.2 is broken."""

    def __init__(
        self,
        rng: random.Random,
        *,
        pool_blocks: int,
        receiver_class: type[HandoverReceiver] = HandoverReceiver,
        guarded_source: bool = True,
        guarded_target: bool = True,
        weak_tags: bool = False,
    ) -> None:
        self.rng = rng
        self.pool_blocks = pool_blocks
        self._receiver_class = receiver_class
        self._guarded_target = guarded_target
        self._weak_tags = weak_tags
        self.source = FakeBlocks(pool_blocks, BLOCK_BYTES, guarded=guarded_source)
        self.target = FakeBlocks(pool_blocks, BLOCK_BYTES, guarded=guarded_target)
        self.epoch = 100
        self.now_s = 0.0
        self.net: list[tuple[Message, bytes]] = []
        self.sending: dict[AttemptKey, _Sending] = {}
        self.receiving: dict[AttemptKey, _Receiving] = {}
        self.used: set[AttemptKey] = set()
        self.num_ready = 0

    # --- what can happen -------------------------------------------------------------------------------------------

    def step(self) -> None:
        """One random event; common ones are common, and messages are rather held than delivered at once."""
        choice = self.rng.choices(
            [self.begin, self.reserve, self.send, self.deliver, self.repeat, self.lose, self.cancel, self.crash],
            [4, 4, 12, 12, 3, 1, 2, 1],
        )[0]
        choice()

    def drive(self) -> None:
        """Take one request straight to the middle of its transfer, holding its messages: where the races are."""
        self.begin()
        self.reserve()
        self.deliver(newest=True)
        for _ in range(self.rng.randrange(4)):
            self.send()

    def begin(self) -> None:
        """P finishes a prompt: blocks filled, offered, sealed."""
        request, attempt = self.rng.randrange(6), self.rng.randrange(3)
        key = AttemptKey(RequestId(f"{request:032x}"), attempt)
        count = self.rng.randint(1, self.pool_blocks)
        if key in self.sending or key in self.used or self.source.num_free() < count:
            return
        refs = self.source.allocate(key, count)
        for ordinal, ref in enumerate(refs):
            self.source.view(ref)[:] = content(key, ordinal)
        machine = HandoverSender(key=key, fingerprint=FINGERPRINT, block_bytes=BLOCK_BYTES, now_s=self.now_s)
        sending = self.sending[key] = _Sending(machine, refs)
        for ordinal, ref in enumerate(refs):
            self._feed_sender(sending, tx.Offered(ordinal, ref))
        self._feed_sender(sending, tx.Sealed(count, b"tokens", b"payload"))

    def reserve(self) -> None:
        """D reserves blocks for an attempt that P works on, and grants them."""
        for key, sending in self.sending.items():
            if sending.machine.is_done or key in self.used or self.target.num_free() < len(sending.refs):
                continue
            self.used.add(key)
            grant = KvGrant(
                request_id=key.request_id,
                attempt=key.attempt,
                layout_fingerprint=FINGERPRINT,
                dst_worker_id="d",
                dst_epoch=self.epoch,
                blocks=tuple(self.target.allocate(key, len(sending.refs))),
                chunk_bytes=CHUNK_BYTES,
                endpoints=(KvEndpoint(transport="tcp", address="x:1", host_id=""),),
                secret=bytes(16) if self._weak_tags else self.rng.randbytes(16),
                deadline_left_s=1e9,
            )
            machine = self._receiver_class(
                grant=grant, block_bytes=BLOCK_BYTES, token_digest=b"tokens", now_s=self.now_s
            )
            self.receiving[key] = _Receiving(machine, grant, self._tag(grant))
            self.net.append((grant, b""))
            return

    def send(self) -> None:
        """P's link carries out one action of one transfer."""
        ready = [sending for sending in self.sending.values() if sending.queue]
        if ready:
            self._carry_out(self.rng.choice(ready))

    def deliver(self, *, newest: bool = False) -> None:
        """Any message arrives."""
        if self.net:
            self._arrive(*self.net.pop(-1 if newest else self.rng.randrange(len(self.net))))

    def repeat(self) -> None:
        """A message arrives, and will arrive again."""
        if self.net:
            self._arrive(*self.rng.choice(self.net))

    def lose(self) -> None:
        """A message is lost."""
        if self.net:
            self.net.pop(self.rng.randrange(len(self.net)))

    def cancel(self) -> None:
        """One side gives up an attempt (abort, lease end); its blocks are free at once."""
        if self.rng.random() < 0.5 and self.sending:
            self._end_sender(self.rng.choice(list(self.sending)), tx.AbortAsked("X"))
        elif self.receiving:
            key = self.rng.choice(list(self.receiving))
            self._feed_receiver(self.receiving[key], rx.AbortAsked("X"))
            self._end_receiver(key)

    def crash(self) -> None:
        """D restarts: new epoch, generations from 0, memory as it was."""
        memory = bytes(self.target.data)
        self.target = FakeBlocks(self.pool_blocks, BLOCK_BYTES, guarded=self._guarded_target)
        self.target.data[:] = memory
        self.epoch += 1
        self.receiving.clear()

    def settle(self) -> None:
        """Deliver what is on its way, then give everything up: nothing may be held afterwards."""
        for _ in range(400):
            self.send()
            self.deliver()
        for key in list(self.sending):
            self._end_sender(key, tx.AbortAsked("X"))
        for key in list(self.receiving):
            self._end_receiver(key)
        if (self.source.num_free(), self.target.num_free()) != (self.pool_blocks, self.pool_blocks):
            raise Violation("blocks leaked")

    # --- private ---------------------------------------------------------------------------------------------------

    def _tag(self, grant: KvGrant) -> bytes:
        if self._weak_tags:
            return grant.request_id.encode()[-16:]
        return transfer_tag(grant.secret, grant.key, dst_epoch=grant.dst_epoch)

    def _arrive(self, message: Message, payload: bytes) -> None:
        match message:
            case KvGrant():
                sending = self.sending.get(message.key)
                if sending is not None and sending.grant is None:
                    sending.grant, sending.tag = message, self._tag(message)
                    self._feed_sender(sending, tx.Granted(message))
            case Commit(tag) | Credit(tag):
                event = (
                    tx.CommitGot(message.reason) if isinstance(message, Commit) else tx.CreditGiven(message.num_landed)
                )
                for sending in list(self.sending.values()):
                    if sending.tag == tag:
                        self._feed_sender(sending, event)
            case Open(tag) | Chunk(tag) | Seal(tag) | CommitAck(tag) | Abort(tag):
                for receiving in list(self.receiving.values()):
                    if receiving.tag == tag:
                        self._arrive_at_receiver(receiving, message, payload)
                        return

    def _arrive_at_receiver(self, receiving: _Receiving, message: Message, payload: bytes) -> None:
        match message:
            case Open():
                self._feed_receiver(receiving, rx.Opened(message))
            case Chunk():
                actions = self._feed_receiver(receiving, rx.ChunkArrived(message))
                if actions and isinstance(actions[0], rx.Write):
                    self._write(receiving, message, actions[0], payload)
            case Seal():
                self._feed_receiver(receiving, rx.SealGot(message))
            case CommitAck():
                self._feed_receiver(receiving, rx.CommitAckGot())
            case Abort(_, _, reason):
                self._feed_receiver(receiving, rx.AbortGot(reason))

    def _write(self, receiving: _Receiving, chunk: Chunk, write: rx.Write, payload: bytes) -> None:
        key = receiving.machine.key
        block = self.target.begin_write(write.ref, key)
        if block is None:
            self._feed_receiver(receiving, rx.ChunkUnplaced(chunk))
            return
        ordinal = receiving.grant.blocks.index(write.ref)
        block[write.offset : write.offset + write.length] = payload
        self.target.end_write(write.ref, key)
        if payload != content(key, ordinal)[write.offset : write.offset + write.length]:
            raise Violation(f"foreign bytes were written for {key}")
        digest = xxh3_128_digest(payload, receiving.machine.keys.seed)
        self._feed_receiver(receiving, rx.ChunkLanded(chunk, digest))

    def _feed_receiver(self, receiving: _Receiving, event: rx.ReceiverEvent) -> list[rx.ReceiverAction]:
        key, tag = receiving.machine.key, receiving.tag
        actions = receiving.machine.on_event(self.now_s, event)
        for action in actions:
            match action:
                case rx.Ready():
                    self._check_ready(receiving)
                    self._feed_receiver(receiving, rx.Adopted())
                case rx.SendCommit(reason):
                    self.net.append((Commit(tag, SRC_EPOCH, reason), b""))
                case rx.SendCredit(num_landed):
                    self.net.append((Credit(tag, SRC_EPOCH, num_landed), b""))
                case rx.Forget():
                    self._end_receiver(key)
        return actions

    def _check_ready(self, receiving: _Receiving) -> None:
        key = receiving.machine.key
        for ordinal, ref in enumerate(receiving.grant.blocks):
            if bytes(self.target.view(ref)) != content(key, ordinal):
                raise Violation(f"{key} became ready with wrong bytes in block {ordinal}")
        self.num_ready += 1

    def _feed_sender(self, sending: _Sending, event: tx.SenderEvent) -> None:
        for action in sending.machine.on_event(self.now_s, event):
            if isinstance(action, tx.Committed | tx.Failed):
                self._end_sender(sending.machine.key, tx.Tick())
            else:
                sending.queue.append(action)

    def _carry_out(self, sending: _Sending) -> None:
        action = sending.queue.pop(0)
        tag, key, grant = sending.tag, sending.machine.key, sending.grant
        epoch = 0 if grant is None else grant.dst_epoch
        match action:
            case tx.SendOpen() if grant is not None:
                frame = Open(tag, SRC_EPOCH, epoch, key.attempt, len(grant.blocks), CHUNK_BYTES, key.request_id)
                self.net.append((frame, b""))
            case tx.SendChunk(seq, source, target, offset, length):
                block = self.source.pin(source, key)
                if block is None:
                    self._end_sender(key, tx.SourceGone())
                    return
                payload = bytes(block[offset : offset + length])
                self.source.unpin(source, key)
                digest = xxh3_128_digest(payload, sending.machine.seed)
                chunk = Chunk(tag, epoch, seq, target.block_id, target.generation, offset, length, digest, None)
                self.net.append((chunk, payload))
                self._feed_sender(sending, tx.ChunkSent(seq, digest))
            case tx.SendSeal(num_blocks, num_chunks, num_bytes, mac, payload, _):
                self.net.append((Seal(tag, epoch, num_blocks, num_chunks, num_bytes, 0, mac, payload), b""))
            case tx.SendCommitAck():
                self.net.append((CommitAck(tag, epoch), b""))

    def _end_sender(self, key: AttemptKey, event: tx.SenderEvent) -> None:
        sending = self.sending.get(key)
        if sending is None:
            return
        sending.machine.on_event(self.now_s, event)
        self.used.add(key)
        self.source.free(key)
        # Actions still queued go on being carried out: this is the race of an abort with the link's thread.
        if all(not isinstance(action, tx.SendChunk) for action in sending.queue):
            del self.sending[key]

    def _end_receiver(self, key: AttemptKey) -> None:
        self.receiving.pop(key, None)
        self.target.free(key)
