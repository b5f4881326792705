"""One prefill worker and one decode worker with a prefix cache, under an adversary: what is cached is not sent.

Production machines, block tables and claims. Prompts are short words over two letters, of two tenants, so that many
begin alike; the bytes of a block are made of tenant and all letters up to its end, as real KV is. Checked as it
happens: everything that is adopted, borrowed or received, holds the prompt's own bytes then and until it is let go.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from xxhash import xxh3_128_digest

from tandem.core import reasons
from tandem.core.blocks import AttemptKey, BlockRef
from tandem.engine.kv.block_table import BlockState, BlockTable, NoBlocks
from tandem.kvtransfer import KvEndpoint, KvGrant, SkippedPrefix
from tandem.kvtransfer.frames import Abort, Chunk, Commit, CommitAck, Credit, Open, Seal
from tandem.kvtransfer.identity import transfer_tag
from tandem.kvtransfer.machine import receiver_events as rx
from tandem.kvtransfer.machine import sender_events as tx
from tandem.kvtransfer.machine.receiver import HandoverReceiver
from tandem.kvtransfer.machine.sender import HandoverSender
from tandem.kvtransfer.skipped import prefix_claim
from tests.stateful.running import require

BLOCK_BYTES, CHUNK_BYTES = 64, 32
FINGERPRINT = "0" * 64
Word = tuple[str, ...]  # tenant, then one letter per block


def name_of(word: Word, num_blocks: int) -> bytes:
    """Name block ``num_blocks - 1`` of a prompt, as the cache does; empty: it has none."""
    return "/".join(word[: num_blocks + 1]).encode() if 0 < num_blocks < len(word) else b""


def content(word: Word, ordinal: int) -> bytes:
    """Bytes that block ``ordinal`` of this prompt must hold: its name, and which half."""
    name = name_of(word, ordinal + 1).ljust(CHUNK_BYTES - 1, b".")
    return name + b"1" + name + b"2"


@dataclass(frozen=True, kw_only=True)
class DeltaBuild:
    """The parts of a world: production's, or one of them a mutant."""

    pool_blocks: int = 6
    sender: type[HandoverSender] = HandoverSender
    receiver: type[HandoverReceiver] = HandoverReceiver
    borrows: bool = True  # D takes a reference on what it skips
    target_table: type[BlockTable] = BlockTable
    look_up: Callable[[dict[bytes, BlockRef], Word], list[bytes]] | None = None
    names_what_it_asked: bool = False  # D's claim is made from the prompt, not from what the cache gave


@dataclass
class Sending:
    """One hand-over at P."""

    word: Word
    machine: HandoverSender
    refs: tuple[BlockRef, ...]
    grant: KvGrant | None = None
    tag: bytes = b""
    queue: list[tx.SenderAction] = field(default_factory=list)


@dataclass
class Receiving:
    """One hand-over at D."""

    word: Word
    machine: HandoverReceiver
    grant: KvGrant
    tag: bytes
    refs: tuple[BlockRef, ...]  # of the whole KV


Message = KvGrant | Open | Chunk | Seal | Commit | CommitAck | Credit | Abort


class DeltaWorld:
    """Every method is one step that may happen at any time; one that can't happen now does nothing."""

    def __init__(self, build: DeltaBuild) -> None:
        self.build = build
        self.p_table, self.d_table = BlockTable(build.pool_blocks), build.target_table(build.pool_blocks)
        self.p_memory = bytearray(build.pool_blocks * BLOCK_BYTES)
        self.d_memory = bytearray(build.pool_blocks * BLOCK_BYTES)
        self.cached: dict[bytes, BlockRef] = {}
        self.d_epoch = 100
        self.sending: dict[AttemptKey, Sending] = {}
        self.receiving: dict[AttemptKey, Receiving] = {}
        self.decoding: dict[AttemptKey, tuple[Word, tuple[BlockRef, ...]]] = {}
        self.over_at_d: set[AttemptKey] = set()
        self.net: list[tuple[Message, bytes]] = []
        self.counts: Counter[str] = Counter()

    # --- engines and router ------------------------------------------------------------------------------------------

    def fill(self, key: AttemptKey, word: Word) -> None:
        """P has the KV of a prompt, by computing or from a cache of its own; it offers all of it, and seals."""
        try:
            refs = self.p_table.allocate(key, len(word) - 1, BlockState.FILLING)
        except NoBlocks:
            return
        for ordinal, ref in enumerate(refs):
            self.p_memory[_span(ref)] = content(word, ordinal)
        self.p_table.seal(key, refs)
        self._offer(key, word, refs)

    def hand_over_again(self, key: AttemptKey, later: AttemptKey) -> None:
        """The first attempt's D is lost: P's KV becomes the next attempt's, for a D with another cache."""
        sending = self.sending.pop(key, None)
        if sending is None:
            return
        self.abort_d(key)
        sending.machine.on_event(0.0, tx.AbortAsked(reasons.KV_NOT_HELD))
        self.p_table.rekey(key, later)
        self.counts["again"] += 1
        self._offer(later, sending.word, sending.refs)

    def _offer(self, key: AttemptKey, word: Word, refs: tuple[BlockRef, ...]) -> None:
        machine = self.build.sender(key=key, fingerprint=FINGERPRINT, block_bytes=BLOCK_BYTES, now_s=0.0)
        sending = self.sending[key] = Sending(word, machine, refs)
        for ordinal, ref in enumerate(refs):
            self._tell_sender(sending, tx.Offered(ordinal, ref))
        self._tell_sender(sending, tx.Sealed(len(refs), b"tokens of " + "".join(word).encode(), b"first"))

    def reserve(self, key: AttemptKey) -> None:
        """D borrows what it has of the prompt, and grants blocks for the rest."""
        sending = self.sending.get(key)
        if sending is None or key in self.receiving or key in self.over_at_d:
            return
        word = sending.word
        names = (self.build.look_up or _found)(self.cached, word)
        lent = tuple(self.cached[name] for name in names)
        if self.build.borrows:
            self.d_table.borrow(key, lent)
        try:
            missing = self.d_table.allocate(key, len(word) - 1 - len(lent), BlockState.RECEIVING)
        except NoBlocks:
            self.d_table.release_all(key)
            return
        secret = bytes([self.d_epoch, key.attempt]) * 8
        named = name_of(word, len(names)) if self.build.names_what_it_asked or not names else names[-1]
        skipped = SkippedPrefix(num_blocks=len(lent), last_key=named)
        grant = KvGrant(
            request_id=key.request_id,
            attempt=key.attempt,
            layout_fingerprint=FINGERPRINT,
            dst_worker_id="d",
            dst_epoch=self.d_epoch,
            blocks=missing,
            chunk_bytes=CHUNK_BYTES,
            endpoints=(KvEndpoint(transport="tcp", address="x:1", host_id=""),),
            secret=secret,
            deadline_left_s=1e9,
            first_ordinal=len(lent),
            claim=prefix_claim(secret, fingerprint=FINGERPRINT, skipped=skipped),
        )
        digest = b"tokens of " + "".join(word).encode()
        machine = self.build.receiver(grant=grant, block_bytes=BLOCK_BYTES, token_digest=digest, now_s=0.0)
        tag = transfer_tag(secret, key, dst_epoch=self.d_epoch)
        self.receiving[key] = Receiving(word, machine, grant, tag, (*lent, *missing))
        self.counts["skipped"] += len(lent)
        self.counts["nothing_to_send"] += not missing
        self.net.append((grant, b""))

    def abort_p(self, key: AttemptKey) -> None:
        """The router tells P to stop."""
        sending = self.sending.get(key)
        if sending is not None:
            self._tell_sender(sending, tx.AbortAsked("ABORTED"))
            self._let_go_p(key)

    def abort_d(self, key: AttemptKey) -> None:
        """The router tells D to stop, or decoding ended: all blocks go back, borrowed ones to the cache."""
        receiving = self.receiving.pop(key, None)
        if receiving is not None:
            self._tell_receiver(receiving, rx.AbortAsked("ABORTED"))
        if self.decoding.pop(key, None) is not None or receiving is not None:
            self._free_d(key)

    def crash_d(self) -> None:
        """D starts again: another epoch, nothing cached, generations from 0, memory as it was."""
        self.over_at_d |= {*self.receiving, *self.decoding}
        self.receiving.clear()
        self.decoding.clear()
        self.cached.clear()
        self.d_epoch += 1
        self.d_table = self.build.target_table(self.build.pool_blocks)

    def evict(self, index: int) -> None:
        """The cache gives up an idle block that nothing cached follows, and its memory is used for other things."""
        leaves = [n for n in self.cached if not any(o != n and o.startswith(n + b"/") for o in self.cached)]
        idle = [n for n in leaves if self.d_table.num_idle_of((self.cached[n],))]
        if idle:
            ref = self.cached.pop(idle[index % len(idle)])
            self.d_table.evict((ref,))
            self.d_memory[_span(ref)] = b"?" * BLOCK_BYTES
            self.counts["evicted"] += 1

    # --- links and network -------------------------------------------------------------------------------------------

    def carry_out(self, key: AttemptKey) -> None:
        """P's link does the next thing of one hand-over."""
        sending = self.sending.get(key)
        if sending is None or not sending.queue or sending.grant is None:
            return
        action, tag, epoch = sending.queue.pop(0), sending.tag, sending.grant.dst_epoch
        match action:
            case tx.SendOpen():
                grant = sending.grant
                num_blocks, first = len(grant.blocks), grant.first_ordinal
                opened = Open(tag, 1, epoch, key.attempt, num_blocks, CHUNK_BYTES, key.request_id, first)
                self.net.append((opened, b""))
            case tx.SendChunk(seq, source, target, offset, length):
                if not self.p_table.pin(source, key):
                    self._tell_sender(sending, tx.SourceGone())
                    return
                payload = bytes(self.p_memory[_span(source)])[offset : offset + length]
                self.p_table.unpin(source)
                digest = xxh3_128_digest(payload, sending.machine.seed)
                chunk = Chunk(tag, epoch, seq, target.block_id, target.generation, offset, length, digest, None)
                self.net.append((chunk, payload))
                self.counts["chunks"] += 1
                self._tell_sender(sending, tx.ChunkSent(seq, digest))
            case tx.SendSeal(num_blocks, num_chunks, num_bytes, mac, payload, _):
                self.net.append((Seal(tag, epoch, num_blocks, num_chunks, num_bytes, 0, mac, payload), b""))
            case tx.SendCommitAck():
                self.net.append((CommitAck(tag, epoch), b""))
            case tx.SendAbort(reason):
                self.net.append((Abort(tag, epoch, reason), b""))

    def arrive(self, message: Message, payload: bytes) -> None:
        """A message comes in."""
        match message:
            case KvGrant():
                sending = self.sending.get(message.key)
                if sending is not None and sending.grant is None:
                    sending.grant = message
                    sending.tag = transfer_tag(message.secret, message.key, dst_epoch=message.dst_epoch)
                    own = SkippedPrefix(
                        num_blocks=message.first_ordinal, last_key=name_of(sending.word, message.first_ordinal)
                    )
                    claim = prefix_claim(message.secret, fingerprint=FINGERPRINT, skipped=own)
                    self._tell_sender(sending, tx.Granted(message, claim))
            case Commit(tag) | Credit(tag):
                event = (
                    tx.CommitGot(message.reason) if isinstance(message, Commit) else tx.CreditGiven(message.num_landed)
                )
                for sending in [s for s in self.sending.values() if s.tag == tag]:
                    self._tell_sender(sending, event)
            case Open(tag) | Chunk(tag) | Seal(tag) | CommitAck(tag) | Abort(tag):
                for receiving in [r for r in self.receiving.values() if r.tag == tag]:
                    self._at_receiver(receiving, message, payload)

    def close_down(self) -> None:
        """All that is on its way is lost and every attempt is given up: nothing may be held but what is cached."""
        self.net.clear()
        for key in list(self.sending):
            self.abort_p(key)
        for key in [*self.receiving, *self.decoding]:
            self.abort_d(key)
        while self.cached:
            before = len(self.cached)
            self.evict(0)
            require(len(self.cached) < before, "a borrowed block was never given back")
        require(self.p_table.num_free == self.build.pool_blocks, "P holds blocks for ever")
        require(self.d_table.num_free == self.build.pool_blocks, "D holds blocks for ever")

    def check(self) -> None:
        """What must hold at any time."""
        self.p_table.check_integrity()
        self.d_table.check_integrity()
        for word, refs in self.decoding.values():
            self._require_own(word, refs, "KV that is decoded from changed")

    # --- inside ------------------------------------------------------------------------------------------------------

    def _at_receiver(self, receiving: Receiving, message: Message, payload: bytes) -> None:
        match message:
            case Open():
                self._tell_receiver(receiving, rx.Opened(message))
            case Chunk():
                actions = self._tell_receiver(receiving, rx.ChunkArrived(message))
                if not actions or not isinstance(actions[0], rx.Write):
                    return
                write, key = actions[0], receiving.machine.key
                if not self.d_table.begin_write(write.ref, key):
                    self._tell_receiver(receiving, rx.ChunkUnplaced(message))
                    return
                start = _span(write.ref).start + write.offset
                self.d_memory[start : start + write.length] = payload
                self.d_table.end_write(write.ref)
                digest = xxh3_128_digest(payload, receiving.machine.keys.seed)
                self._tell_receiver(receiving, rx.ChunkLanded(message, digest))
            case Seal():
                self._tell_receiver(receiving, rx.SealGot(message))
            case CommitAck():
                self._tell_receiver(receiving, rx.CommitAckGot())
            case Abort():
                self._tell_receiver(receiving, rx.AbortGot(message.reason))

    def _tell_receiver(self, receiving: Receiving, event: rx.ReceiverEvent) -> list[rx.ReceiverAction]:
        actions = receiving.machine.on_event(0.0, event)
        for action in actions:
            match action:
                case rx.Ready():
                    self._adopt(receiving)
                    self._tell_receiver(receiving, rx.Adopted())
                case rx.Failed(reason):
                    self.counts[reason] += 1
                    self.receiving.pop(receiving.machine.key, None)
                    self._free_d(receiving.machine.key)
                case rx.SendCommit(reason):
                    self.net.append((Commit(receiving.tag, 1, reason), b""))
                case rx.SendCredit(num_landed):
                    self.net.append((Credit(receiving.tag, 1, num_landed), b""))
        return actions

    def _adopt(self, receiving: Receiving) -> None:
        key, word = receiving.machine.key, receiving.word
        self._require_own(word, receiving.refs, "torn or foreign KV was adopted")
        self.d_table.commit(key)
        for ordinal in range(receiving.grant.first_ordinal, len(receiving.refs)):
            name = name_of(word, ordinal + 1)
            if name not in self.cached and (ordinal == 0 or name_of(word, ordinal) in self.cached):
                self.d_table.cache(key, (receiving.refs[ordinal],))
                self.cached[name] = receiving.refs[ordinal]
        self.decoding[key] = (word, receiving.refs)
        self.counts["adopted"] += 1
        self.counts["adopted_delta"] += receiving.grant.first_ordinal > 0

    def _require_own(self, word: Word, refs: tuple[BlockRef, ...], problem: str) -> None:
        held = [bytes(self.d_memory[_span(ref)]) for ref in refs]
        require(held == [content(word, ordinal) for ordinal in range(len(refs))], problem)

    def _free_d(self, key: AttemptKey) -> None:
        self.over_at_d.add(key)
        self.d_table.release_all(key)

    def _tell_sender(self, sending: Sending, event: tx.SenderEvent) -> None:
        for action in sending.machine.on_event(0.0, event):
            if isinstance(action, tx.Committed | tx.Failed):
                self._let_go_p(sending.machine.key)
            sending.queue.append(action)

    def _let_go_p(self, key: AttemptKey) -> None:
        self.p_table.release_all(key)


def _span(ref: BlockRef) -> slice:
    return slice(ref.block_id * BLOCK_BYTES, (ref.block_id + 1) * BLOCK_BYTES)


def _found(cached: dict[bytes, BlockRef], word: Word) -> list[bytes]:
    names: list[bytes] = []
    for ordinal in range(1, len(word)):
        if name_of(word, ordinal) not in cached:
            break
        names.append(name_of(word, ordinal))
    return names


def in_order(world: DeltaWorld) -> None:
    """Deliver everything that is on its way as a link does, until nothing moves."""
    _deliver_all(world, lambda _: 0)


def shuffled(world: DeltaWorld, seed: int) -> None:
    """The same in any order; a chunk or a Seal that comes before the Open is lost then."""
    _deliver_all(world, random.Random(seed).randrange)


def _deliver_all(world: DeltaWorld, choose: Callable[[int], int]) -> None:
    for _ in range(300):
        for key in list(world.sending):
            world.carry_out(key)
        if world.net:
            world.arrive(*world.net.pop(choose(len(world.net))))
