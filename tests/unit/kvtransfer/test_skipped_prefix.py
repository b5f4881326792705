"""A grant that leaves out what the receiver holds: both machines and the wire, one rule at a time."""

import itertools
from dataclasses import replace

import msgspec
import pytest

from tandem.core import reasons
from tandem.core.blocks import BlockRef
from tandem.kvtransfer import KvGrant, ProtocolViolation, SkippedPrefix
from tandem.kvtransfer.digest import SealedRange, derive_keys, seal_mac
from tandem.kvtransfer.frames import Chunk, Open, Seal
from tandem.kvtransfer.machine import receiver_events as rx
from tandem.kvtransfer.machine import sender_events as tx
from tandem.kvtransfer.machine.receiver import HandoverReceiver, ReceiverState
from tandem.kvtransfer.machine.sender import HandoverSender, SenderState
from tandem.kvtransfer.skipped import prefix_claim
from tests.unit.kvtransfer.machine_world import BLOCK_BYTES, CHUNK_BYTES, KEY, TAG, grant_of

SECRET = b"s" * 16
FINGERPRINT = "0" * 64
NAME = b"name of the last skipped block.."


def claim_of(num_blocks: int, *, name: bytes = NAME, fingerprint: str = FINGERPRINT, secret: bytes = SECRET) -> bytes:
    skipped = SkippedPrefix(num_blocks=num_blocks, last_key=name)
    return prefix_claim(secret, fingerprint=fingerprint, skipped=skipped)


def delta_of(num_skipped: int, num_granted: int) -> KvGrant:
    """Blocks ``num_skipped`` … of the KV are granted, as block ids 10, 11, …"""
    grant = replace(grant_of(1), first_ordinal=num_skipped, claim=claim_of(num_skipped))
    return replace(grant, blocks=tuple(BlockRef(10 + n, 3) for n in range(num_granted)))


def new_sender() -> HandoverSender:
    return HandoverSender(key=KEY, fingerprint=FINGERPRINT, block_bytes=BLOCK_BYTES, now_s=0.0)


def new_receiver(grant: KvGrant) -> HandoverReceiver:
    return HandoverReceiver(grant=grant, block_bytes=BLOCK_BYTES, token_digest=b"tok", now_s=0.0)


def open_of(grant: KvGrant) -> Open:
    return Open(TAG, 1, 7, 0, len(grant.blocks), CHUNK_BYTES, KEY.request_id, grant.first_ordinal)


def hand_over(sender: HandoverSender, receiver: HandoverReceiver, events: list[tx.SenderEvent]) -> list[object]:
    """Carry both sides' actions to the other at once; chunks carry (source block, offset) as their digest."""
    done: list[object] = []
    queue = list(events)
    while queue:
        for action in sender.on_event(1.0, queue.pop(0)):
            done.append(action)
            answers: list[rx.ReceiverAction] = []
            match action:
                case tx.SendOpen():
                    answers = receiver.on_event(1.0, rx.Opened(open_of(receiver._grant)))
                case tx.SendChunk(seq, source, target, offset, length):
                    digest = bytes([source.block_id, offset]) * 8
                    chunk = Chunk(TAG, 7, seq, target.block_id, target.generation, offset, length, digest, None)
                    (write,) = receiver.on_event(1.0, rx.ChunkArrived(chunk))
                    assert write == rx.Write(target, offset, length)
                    answers = receiver.on_event(1.0, rx.ChunkLanded(chunk, digest))
                    queue.insert(0, tx.ChunkSent(seq, digest))
                case tx.SendSeal(num_blocks, num_chunks, num_bytes, mac, payload, _):
                    seal = Seal(TAG, 7, num_blocks, num_chunks, num_bytes, 0, mac, payload)
                    answers = receiver.on_event(1.0, rx.SealGot(seal))
                case tx.SendAbort(reason):
                    answers = receiver.on_event(1.0, rx.AbortGot(reason))
            for answer in answers:
                done.append(answer)
                if isinstance(answer, rx.SendCredit):
                    queue.append(tx.CreditGiven(answer.num_landed))
    return done


def events_of(grant: KvGrant, num_blocks: int, claim: bytes) -> list[tx.SenderEvent]:
    offers = [tx.Offered(n, BlockRef(n, 1)) for n in range(num_blocks)]
    return [tx.Granted(grant, claim), *offers, tx.Sealed(num_blocks, b"tok", b"pay")]


@pytest.mark.parametrize("num_skipped", [0, 1, 2, 3])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_only_what_is_granted_leaves_and_into_its_own_place(num_skipped: int, order: tuple[int, ...]) -> None:
    grant = delta_of(num_skipped, 3 - num_skipped)
    grant = grant if num_skipped else replace(grant, claim=b"")
    granted, *offers, sealed = events_of(grant, 3, grant.claim)
    parts = [[granted], offers, [sealed]]
    sender, receiver = new_sender(), new_receiver(grant)
    done = hand_over(sender, receiver, [event for index in order for event in parts[index]])
    pairs = {(a.source.block_id, a.target.block_id) for a in done if isinstance(a, tx.SendChunk)}
    assert pairs == {(n, 10 + n - num_skipped) for n in range(num_skipped, 3)}
    assert receiver.state is ReceiverState.VERIFIED
    assert rx.Ready(b"pay", 0.0) in done
    assert receiver.num_blocks_skipped == sender.num_blocks_skipped == num_skipped
    assert sender.num_bytes_sent == (3 - num_skipped) * BLOCK_BYTES


def test_a_receiver_that_has_everything_gets_the_seal_alone() -> None:
    grant = delta_of(3, 0)
    sender, receiver = new_sender(), new_receiver(grant)
    done = hand_over(sender, receiver, events_of(grant, 3, grant.claim))
    assert [a for a in done if isinstance(a, tx.SendChunk)] == []
    assert rx.Ready(b"pay", 0.0) in done
    assert sender.on_event(2.0, tx.CommitGot("")) == [tx.SendCommitAck(), tx.Committed()]


def test_the_seal_does_not_come_before_the_engine_sealed_although_nothing_is_to_be_sent() -> None:
    sender = new_sender()
    grant = delta_of(3, 0)
    actions = [a for event in events_of(grant, 3, grant.claim)[:-1] for a in sender.on_event(0.0, event)]
    assert actions == [tx.SendOpen()]
    assert sender.state is SenderState.STREAMING


@pytest.mark.parametrize(
    "own",
    [
        pytest.param(claim_of(2), id="another-count"),
        pytest.param(claim_of(1, name=b"another block's name"), id="another-block"),
        pytest.param(claim_of(1, fingerprint="1" * 64), id="another-layout"),
        pytest.param(claim_of(1, secret=b"t" * 16), id="another-grant"),
        pytest.param(b"", id="no-name-here"),
    ],
)
def test_unequal_claims_end_it_by_name_before_any_byte(own: bytes) -> None:
    grant = delta_of(1, 2)
    sender, receiver = new_sender(), new_receiver(grant)
    done = hand_over(sender, receiver, events_of(grant, 3, own))
    assert done[-1] in (tx.Failed(reasons.KV_PREFIX, True), tx.StartLease())
    assert tx.Failed(reasons.KV_PREFIX, True) in done
    assert rx.Failed(reasons.KV_PREFIX, True) in done, "D is told by the same name"
    assert [a for a in done if isinstance(a, tx.SendChunk | rx.Ready)] == []


def test_a_sender_that_opens_another_range_is_refused_by_name() -> None:
    grant = delta_of(1, 2)
    receiver = new_receiver(grant)
    actions = receiver.on_event(0.0, rx.Opened(replace(open_of(grant), first_ordinal=0)))
    assert actions == [rx.SendAbort(reasons.KV_PREFIX), rx.Failed(reasons.KV_PREFIX, True), rx.Forget()]


def test_a_claim_that_nobody_checked_at_the_grant_is_found_at_the_seal() -> None:
    """Second layer: a sender without the check at the grant (or with another claim in mind) seals other bytes."""
    grant = delta_of(1, 2)
    sender, receiver = new_sender(), new_receiver(grant)
    wrong = claim_of(1, name=b"another block's name")
    done = hand_over(sender, receiver, events_of(replace(grant, claim=wrong), 3, wrong))
    assert rx.Failed(reasons.KV_INTEGRITY, True) in done
    assert [a for a in done if isinstance(a, rx.Ready)] == []


def test_a_seal_binds_which_blocks_of_the_kv_were_sent() -> None:
    """The claim names the end of what was left out; the range is sealed besides, for grants that leave out nothing."""

    def mac(first_ordinal: int, num_blocks: int) -> bytes:
        sent = SealedRange(num_blocks=num_blocks, first_ordinal=first_ordinal, claim=claim_of(1))
        parts = {"token_digest": b"tok", "digests": b"d" * 16, "payload": b"pay"}
        return seal_mac(derive_keys(SECRET), fingerprint=FINGERPRINT, sent=sent, **parts)

    assert len({mac(first, num_blocks) for first in (0, 1, 2) for num_blocks in (1, 2)}) == 6


class OffByOne(HandoverSender):
    """Mutant: reads the block before the one that was granted."""

    def _pump(self, now_s: float) -> list[tx.SenderAction]:
        self._first_ordinal -= 1
        try:
            return super()._pump(now_s)
        finally:
            self._first_ordinal += 1


def test_a_wrong_source_is_noticed_by_these_tests() -> None:
    grant = delta_of(1, 2)
    sender = OffByOne(key=KEY, fingerprint=FINGERPRINT, block_bytes=BLOCK_BYTES, now_s=0.0)
    done = hand_over(sender, new_receiver(grant), events_of(grant, 3, grant.claim))
    pairs = {(a.source.block_id, a.target.block_id) for a in done if isinstance(a, tx.SendChunk)}
    assert pairs != {(1, 10), (2, 11)}


@pytest.mark.parametrize("num_sealed", [1, 2, 4])
def test_counts_must_fit_with_what_is_skipped(num_sealed: int) -> None:
    grant = delta_of(1, 2)
    sender = new_sender()
    sender.on_event(0.0, tx.Granted(grant, grant.claim))
    assert sender.on_event(0.0, tx.Sealed(num_sealed, b"", b""))[-1] == tx.Failed(reasons.KV_INTEGRITY, False)


def test_grant_round_trip_and_bounds() -> None:
    grant = delta_of(2, 0)
    assert KvGrant.from_bytes(grant.to_bytes()) == grant
    assert "claim" not in repr(grant)
    fields = msgspec.msgpack.decode(grant.to_bytes())
    for bad in (
        {"first_ordinal": 0},
        {"first_ordinal": -1},
        {"first_ordinal": 1 << 18},
        {"claim": b""},
        {"claim": bytes(33)},
        {"first_ordinal": 0, "claim": b""},
        {"first_ordinal": 0, "blocks": [[1, 1]]},
    ):
        with pytest.raises(ProtocolViolation):
            KvGrant.from_bytes(msgspec.msgpack.encode({**fields, **bad}))


def test_nothing_skipped_needs_no_claim() -> None:
    assert prefix_claim(SECRET, fingerprint=FINGERPRINT, skipped=None) == b""
    assert prefix_claim(SECRET, fingerprint=FINGERPRINT, skipped=SkippedPrefix(num_blocks=0, last_key=NAME)) == b""
    assert prefix_claim(SECRET, fingerprint=FINGERPRINT, skipped=SkippedPrefix(num_blocks=1, last_key=b"")) == b""
    assert "name" not in repr(SkippedPrefix(num_blocks=1, last_key=NAME))
