"""P and D with a network that anybody may hold, repeat, lose, reorder and spoil. Raises Violation when a rule breaks.

Checked as it happens: no byte of another attempt is copied out or accepted, what is adopted is byte for byte the
attempt's own and stays so, P lets go as "committed" only of what D has verified, every side hears of an end once.
"""

from collections.abc import Sequence

from xxhash import xxh3_128_digest

from tandem.core import reasons
from tandem.core.blocks import AttemptKey
from tandem.engine.kv.block_table import BlockState, NoBlocks
from tandem.kvtransfer import KvEndpoint, KvGrant
from tandem.kvtransfer.frames import Abort, Beat, Chunk, Commit, CommitAck, Credit, Open, Seal
from tandem.kvtransfer.machine import receiver_events as rx
from tandem.kvtransfer.machine import sender_events as tx
from tandem.kvtransfer.machine.lease import LeaseDropped, LeaseRenewed, LeaseScan, LeaseStarted
from tests.stateful.handover_parts import (
    BLOCK_BYTES,
    CHUNK_BYTES,
    FINGERPRINT,
    Build,
    Copy,
    Counts,
    Decode,
    Held,
    Prefill,
    Receiving,
    Sending,
    content,
    first_tokens,
    span,
    tag_of,
    token_digest,
)
from tests.stateful.running import require

DEADLINE_S = 40.0


class HandoverWorld:
    """Every method is one step that may happen at any time; one that can't happen now does nothing."""

    def __init__(self, build: Build) -> None:
        self.build = build
        self.now_s = 0.0
        self.net: list[Held] = []
        self.p = Prefill(build, 1, bytearray(build.pool_blocks * BLOCK_BYTES))
        self.d = Decode(build, 100, bytearray(build.pool_blocks * BLOCK_BYTES))
        self.verified: set[AttemptKey] = set()
        self.ended: dict[str, set[AttemptKey]] = {"P": set(), "D": set()}
        self.counts = Counts()

    # --- what the engines and the router do --------------------------------------------------------------------------

    def fill(self, key: AttemptKey, num_blocks: int) -> None:
        """P has computed a prompt: its blocks are final and offered."""
        try:
            refs = self.p.table.allocate(key, num_blocks, BlockState.FILLING)
        except NoBlocks:
            return
        sending = self.p.sending[key] = Sending(
            self.build.sender(key=key, fingerprint=FINGERPRINT, block_bytes=BLOCK_BYTES, now_s=self.now_s), refs
        )
        for ordinal, ref in enumerate(refs):
            self.p.user[ref.block_id] = key
            self.p.memory[span(ref)] = content(key, ordinal)
            self.p.table.seal(key, [ref])
            self._tell_sender(sending, tx.Offered(ordinal, ref))

    def seal(self, key: AttemptKey) -> None:
        """P has sampled the first tokens."""
        sending = self.p.sending.get(key)
        if sending is not None and not sending.is_sealed:
            sending.is_sealed = True
            self._tell_sender(sending, tx.Sealed(len(sending.refs), token_digest(key), first_tokens(key)))

    def reserve(self, key: AttemptKey) -> None:
        """D reserves blocks and grants them."""
        sending = self.p.sending.get(key)
        if sending is None or key in self.d.receiving or key in self.ended["D"]:
            return
        try:
            refs = self.d.table.allocate(key, len(sending.refs), BlockState.RECEIVING)
        except NoBlocks:
            return
        grant = KvGrant(
            request_id=key.request_id,
            attempt=key.attempt,
            layout_fingerprint=FINGERPRINT,
            dst_worker_id="d",
            dst_epoch=self.d.epoch,
            blocks=refs,
            chunk_bytes=CHUNK_BYTES,
            endpoints=(KvEndpoint(transport="tcp", address="x:1", host_id=""),),
            secret=bytes(16) if self.build.weak_tags else bytes([self.d.epoch, key.attempt]) * 8,
            deadline_left_s=DEADLINE_S,
        )
        machine = self.build.receiver(
            grant=grant, block_bytes=BLOCK_BYTES, token_digest=token_digest(key), now_s=self.now_s
        )
        for ref in refs:
            self.d.user[ref.block_id] = key
            self.d.memory[span(ref)] = bytes(BLOCK_BYTES)
        self.d.receiving[key] = Receiving(machine, grant, tag_of(self.build, grant))
        self.net.append(Held(grant, key))

    def adopt(self, key: AttemptKey) -> None:
        """D's engine takes what was verified."""
        payload = self.d.ready.pop(key, None)
        if payload is None:
            return
        refs = self.d.receiving[key].grant.blocks
        for ordinal, ref in enumerate(refs):
            require(bytes(self.d.memory[span(ref)]) == content(key, ordinal), "torn or foreign KV was adopted")
        require(payload == first_tokens(key), "foreign first tokens were adopted")
        self.d.table.commit(key)
        self.d.decoding[key] = refs
        self.counts["adopted"] += 1

    def abort_p(self, key: AttemptKey) -> None:
        """The router tells P to stop; its blocks are free at once."""
        sending = self.p.sending.get(key)
        if sending is not None:
            self._tell_sender(sending, tx.AbortAsked("ABORTED"))
            self._let_go_p(key)

    def abort_d(self, key: AttemptKey) -> None:
        """The router tells D to stop, or decoding ended; its blocks are free at once."""
        receiving = self.d.receiving.get(key)
        self.d.ready.pop(key, None)
        if receiving is not None and key not in self.d.decoding:
            self._tell_receiver(receiving, rx.AbortAsked("ABORTED"))
        if self.d.decoding.pop(key, None) is not None or receiving is not None:
            self.ended["D"].add(key)
            self.d.table.release_all(key)

    def crash_p(self) -> None:
        """P starts again: another epoch, an empty table, its words still on their way."""
        self.p = Prefill(self.build, self.p.epoch + 1, bytearray(len(self.p.memory)))

    def crash_d(self) -> None:
        """D starts again: another epoch, generations from 0; no router ever lets it take up an old attempt."""
        self.ended["D"] |= {*self.d.receiving, *self.d.decoding}
        self.d = Decode(self.build, self.d.epoch + 1, bytearray(len(self.d.memory)))

    def wait(self, seconds: float) -> None:
        """Time passes: leases are scanned, time-outs looked at."""
        self.now_s += seconds
        for expired in self.p.leases.on_event(self.now_s, LeaseScan()):
            sending = self.p.sending.get(expired.key)
            if sending is not None:
                self.counts["lease_ended"] += 1
                self._tell_sender(sending, tx.Ended(reasons.KV_LEASE, True))
        for sending in list(self.p.sending.values()):
            self._tell_sender(sending, tx.Tick())
        for receiving in list(self.d.receiving.values()):
            self._tell_receiver(receiving, rx.Tick())

    def beat(self) -> None:
        """Both say what they still want."""
        some = next(iter(self.p.sending), next(iter(self.d.receiving), None))
        if some is not None:
            wanted = tuple(r.tag for r in self.d.receiving.values() if r.machine.is_wanted)
            self.net.append(Held(Beat(self.d.epoch, wanted), some))
            self.net.append(Held(Beat(self.p.epoch, tuple(s.tag for s in self.p.sending.values())), some))

    # --- what the links do -------------------------------------------------------------------------------------------

    def carry_out(self, key: AttemptKey) -> None:
        """P's link does the next thing of one hand-over; it may be late: the machine may be done with it."""
        sending = self.p.sending.get(key)
        if sending is None or not sending.queue or any(copy.key == key for copy in self.p.copies):
            return
        action = sending.queue.pop(0)
        tag, grant = sending.tag, sending.grant
        epoch = 0 if grant is None else grant.dst_epoch
        match action:
            case tx.SendOpen() if grant is not None:
                frame = Open(tag, self.p.epoch, epoch, key.attempt, len(grant.blocks), CHUNK_BYTES, key.request_id)
                self.net.append(Held(frame, key))
            case tx.SendChunk(_, source):
                if self.p.table.pin(source, key):
                    self.p.copies.append(Copy(key, source, action=action))
                else:
                    self.counts["stale_source"] += 1
                    self._tell_sender(sending, tx.SourceGone())
            case tx.SendSeal(num_blocks, num_chunks, num_bytes, mac, payload, _):
                self.net.append(Held(Seal(tag, epoch, num_blocks, num_chunks, num_bytes, 0, mac, payload), key))
            case tx.SendCommitAck():
                self.net.append(Held(CommitAck(tag, epoch), key))
            case tx.SendAbort(reason):
                self.net.append(Held(Abort(tag, epoch, reason), key))
        self._drop_if_through(key)

    def finish_copy(self, copy: Copy) -> None:
        """P's link has copied a chunk out: only now are the bytes looked at."""
        self.p.copies.remove(copy)
        action, sending = copy.action, self.p.sending[copy.key]
        if action is None:
            return
        require(self.p.user[copy.ref.block_id] == copy.key, "another attempt's block was copied out")
        payload = bytes(self.p.memory[span(copy.ref, action.offset, action.length)])
        self.p.table.unpin(copy.ref)
        epoch = 0 if sending.grant is None else sending.grant.dst_epoch
        digest = xxh3_128_digest(payload, sending.machine.seed)
        target = action.target
        chunk = Chunk(
            sending.tag,
            epoch,
            action.seq,
            target.block_id,
            target.generation,
            action.offset,
            action.length,
            digest,
            None,
        )
        self.net.append(Held(chunk, copy.key, payload))
        self._tell_sender(sending, tx.ChunkSent(action.seq, digest))
        self._drop_if_through(copy.key)

    def arrive(self, held: Held, *, slow: bool = False) -> None:
        """A message comes in. A slow chunk stays under the writer's hands until ``finish_write``."""
        match held.message:
            case KvGrant() as grant:
                sending = self.p.sending.get(grant.key)
                if sending is not None and sending.grant is None:
                    sending.grant, sending.tag = grant, tag_of(self.build, grant)
                    self._tell_sender(sending, tx.Granted(grant))
            case Beat(epoch, tags):
                self._on_beat(epoch, tags)
            case Commit(tag, epoch, reason):
                self._to_sender(tag, epoch, tx.CommitGot(reason))
            case Credit(tag, epoch, num_landed):
                self._to_sender(tag, epoch, tx.CreditGiven(num_landed))
            case Abort(tag, epoch, reason) if epoch < 100:
                self._to_sender(tag, epoch, tx.AbortGot(reason))
            case message:
                for receiving in reversed(self.d.receiving.values()):
                    if receiving.tag == message.tag and not receiving.machine.is_done:
                        self._at_receiver(receiving, held, slow=slow)
                        return

    def finish_write(self, copy: Copy) -> None:
        """D's link has put a chunk into its block."""
        self.d.copies.remove(copy)
        held, write = copy.held, copy.write
        if held is None or write is None or not isinstance(held.message, Chunk):
            return
        require(self.d.user[write.ref.block_id] == copy.key, "bytes were written into another attempt's block")
        self.d.memory[span(write.ref, write.offset, write.length)] = held.payload
        self.d.table.end_write(write.ref)
        receiving = self.d.receiving.get(copy.key)
        if receiving is not None and not receiving.machine.is_done:
            digest = xxh3_128_digest(held.payload, receiving.machine.keys.seed)
            self._tell_receiver(receiving, rx.ChunkLanded(held.message, digest))

    def close_down(self) -> None:
        """Every message is lost and nobody does anything any more: time alone must free all that nobody decodes."""
        for copy in (*self.p.copies, *self.d.copies):
            (self.finish_copy if copy in self.p.copies else self.finish_write)(copy)
        for key in list(self.d.ready):
            self.adopt(key)
        for key in list(self.p.sending):
            self.seal(key)
        for _ in range(100):
            self.net.clear()
            self.wait(1.0)
        require(self.p.table.num_free == self.build.pool_blocks, "P holds blocks for ever")
        for key in list(self.d.decoding):
            self.abort_d(key)
        require(self.d.table.num_free == self.build.pool_blocks, "D holds blocks for ever")
        require(all(r.machine.is_done for r in self.d.receiving.values()), "D's machine never ends")
        require(all(s.machine.is_done for s in self.p.sending.values()), "P's machine never ends")

    def check(self) -> None:
        """What must hold at any time."""
        self.p.table.check_integrity()
        self.d.table.check_integrity()
        for key, refs in self.d.decoding.items():
            held = b"".join(bytes(self.d.memory[span(ref)]) for ref in refs)
            require(held == b"".join(content(key, n) for n in range(len(refs))), "adopted KV changed")

    # --- inside ------------------------------------------------------------------------------------------------------

    def _on_beat(self, epoch: int, tags: tuple[bytes, ...]) -> None:
        if epoch >= 100:
            for sending in list(self.p.sending.values()):
                if sending.grant is not None:
                    self._tell_sender(sending, tx.BeatGot(sending.tag in tags))
        else:
            for receiving in list(self.d.receiving.values()):
                if receiving.tag in tags:
                    self._tell_receiver(receiving, rx.PeerBeat())

    def _to_sender(self, tag: bytes, epoch: int, event: tx.SenderEvent) -> None:
        for sending in list(self.p.sending.values()):
            if sending.tag == tag and epoch == self.p.epoch:
                self._tell_sender(sending, event)

    def _at_receiver(self, receiving: Receiving, held: Held, *, slow: bool) -> None:
        message = held.message
        if isinstance(message, Chunk):
            self._on_chunk(receiving, held, message, slow=slow)
        elif isinstance(message, Open | Seal | CommitAck | Abort) and message.epoch == self.d.epoch:
            match message:
                case Open():
                    receiving.src_epoch = message.src_epoch
                    self._tell_receiver(receiving, rx.Opened(message))
                case Seal():
                    self._tell_receiver(receiving, rx.SealGot(message))
                case CommitAck():
                    self._tell_receiver(receiving, rx.CommitAckGot())
                case Abort():
                    self._tell_receiver(receiving, rx.AbortGot(message.reason))

    def _on_chunk(self, receiving: Receiving, held: Held, chunk: Chunk, *, slow: bool) -> None:
        key = receiving.machine.key
        actions = self._tell_receiver(receiving, rx.ChunkArrived(chunk))
        write = actions[0] if actions else None
        if not isinstance(write, rx.Write):
            return
        require(held.origin == key, "a chunk of another attempt was accepted")
        if not self.d.table.begin_write(write.ref, key):
            self._tell_receiver(receiving, rx.ChunkUnplaced(chunk))
            return
        copy = Copy(key, write.ref, write=write, held=held)
        self.d.copies.append(copy)
        if not slow:
            self.finish_write(copy)

    def _tell_receiver(self, receiving: Receiving, event: rx.ReceiverEvent) -> Sequence[rx.ReceiverAction]:
        key, tag = receiving.machine.key, receiving.tag
        actions = receiving.machine.on_event(self.now_s, event)
        for action in actions:
            match action:
                case rx.Drop(counter):
                    self.counts[counter] += 1
                case rx.Ready(payload):
                    require(key not in self.verified, "a hand-over became ready twice")
                    self.verified.add(key)
                    self.d.ready[key] = payload
                    self._tell_receiver(receiving, rx.Adopted())
                case rx.Failed():
                    require(key not in self.ended["D"], "D heard of an end twice")
                    self.ended["D"].add(key)
                    self.d.table.release_all(key)
                case rx.SendCommit(reason):
                    self.net.append(Held(Commit(tag, receiving.src_epoch, reason), key))
                case rx.SendCredit(num_landed):
                    self.net.append(Held(Credit(tag, receiving.src_epoch, num_landed), key))
                case rx.SendAbort(reason):
                    self.net.append(Held(Abort(tag, receiving.src_epoch, reason), key))
        return actions

    def _tell_sender(self, sending: Sending, event: tx.SenderEvent) -> None:
        key = sending.machine.key
        for action in sending.machine.on_event(self.now_s, event):
            match action:
                case tx.StartLease():
                    self.p.leases.on_event(self.now_s, LeaseStarted(key))
                case tx.RenewLease():
                    self.p.leases.on_event(self.now_s, LeaseRenewed(key))
                case tx.Committed() | tx.Failed():
                    require(key not in self.ended["P"], "P heard of an end twice")
                    if isinstance(action, tx.Committed):
                        self.counts["committed"] += 1
                        is_told = key in self.verified or not self.build.check_commits
                        require(is_told, "P let go as committed of what nobody verified")
                    self._let_go_p(key)
                case _:
                    sending.queue.append(action)

    def _let_go_p(self, key: AttemptKey) -> None:
        self.ended["P"].add(key)
        self.p.leases.on_event(self.now_s, LeaseDropped(key))
        self.p.table.release_all(key)

    def _drop_if_through(self, key: AttemptKey) -> None:
        """What its link has in hand of an ended hand-over is still carried out: the race of an abort with the link."""
        is_busy = self.p.sending[key].queue or any(copy.key == key for copy in self.p.copies)
        if key in self.ended["P"] and not is_busy:
            del self.p.sending[key]
