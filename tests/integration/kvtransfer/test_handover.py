"""Whole hand-overs through the real services, over both transports."""

import dataclasses
import os
import threading
import time
from pathlib import Path

import pytest

from tandem.core import reasons
from tandem.core.blocks import AttemptKey
from tandem.core.errors import InvalidArgument
from tandem.core.ids import RequestId
from tandem.kvtransfer import KvGrant, LayoutMismatch
from tandem.kvtransfer.grant import TransportName
from tests.fakes.kv_pair import SMALL_LAYOUT, TOKENS, KvPair, eventually, kv_pair
from tests.fakes.kv_raw_peer import num_fds

KEY = AttemptKey(RequestId("a" * 32), 0)
TRANSPORTS: list[TransportName] = ["shm", "tcp"]
BIG_LAYOUT = dataclasses.replace(SMALL_LAYOUT, num_layers=24, num_kv_heads=8, head_dim=64)  # 1.5 MiB: two chunks


def key_of(number: int, attempt: int = 0) -> AttemptKey:
    return AttemptKey(RequestId(f"{number:032x}"), attempt)


def check_idle(pair: KvPair) -> None:
    assert pair.sender.held() == ()
    eventually(lambda: not pair.receiver._transfers)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_bytes_and_payload_arrive(transport: TransportName) -> None:
    with kv_pair(transports=[transport]) as pair:
        data = pair.fill(KEY, 20)
        grant = pair.expect(KEY, 20)
        assert pair.receiver.wanted() == (KEY,)
        pair.sender.grant(KvGrant.from_bytes(grant.to_bytes()))
        pair.offer_all(KEY)
        pair.seal(KEY, payload=b"\x01\x02")
        pair.sent.wait(lambda: KEY in pair.sent.committed)
        assert pair.received.ready == {KEY: b"\x01\x02"}
        assert pair.target_bytes(grant) == data
        stats = pair.sent.committed[KEY]
        assert (stats.transport, stats.num_bytes, stats.num_chunks) == (transport, len(data), 20)
        assert pair.receiver.wanted() == ()
        check_idle(pair)
        assert (pair.sent.num_calls, pair.received.num_calls) == (1, 1)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("order", ["grant first", "grant last", "grant between"])
def test_streaming_in_any_order(transport: TransportName, order: str) -> None:
    with kv_pair(transports=[transport], layout=BIG_LAYOUT, num_blocks=12) as pair:
        data = pair.fill(KEY, 10)
        grant = pair.expect(KEY, 10)
        if order == "grant first":
            pair.sender.grant(grant)
        for ordinal, ref in enumerate(pair.source_refs[KEY]):
            pair.sender.offer(KEY, ordinal, ref)
            if order == "grant between" and ordinal == 4:
                pair.sender.grant(grant)
            time.sleep(0.002)
        pair.seal(KEY)
        if order == "grant last":
            pair.sender.grant(grant)
        pair.sent.wait(lambda: KEY in pair.sent.committed)
        assert pair.target_bytes(grant) == data
        assert pair.sender.snapshot().num_chunks == pair.receiver.snapshot().num_chunks == 20


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_many_transfers_share_one_connection(transport: TransportName) -> None:
    with kv_pair(transports=[transport], num_blocks=64) as pair:
        grants, contents = {}, {}
        for number in range(16):
            key = key_of(number)
            contents[key] = pair.fill(key, 4, seed=number)
            grants[key] = pair.expect(key, 4)
            pair.sender.grant(grants[key])
        num_links = len([thread for thread in threading.enumerate() if thread.name == "kv-send"])

        def offer_and_seal(key: AttemptKey) -> None:
            pair.offer_all(key)
            pair.seal(key)

        threads = [threading.Thread(target=offer_and_seal, args=(key,)) for key in grants]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        pair.sent.wait(lambda: len(pair.sent.committed) == 16)
        assert num_links == 1
        for key, grant in grants.items():
            assert pair.target_bytes(grant) == contents[key]
        check_idle(pair)


def test_shm_is_preferred_and_tcp_is_the_way_out() -> None:
    with kv_pair() as pair:
        for number, host_id in enumerate(("", "another machine")):
            key = key_of(number)
            pair.fill(key, 2)
            grant = pair.expect(key, 2)
            if host_id:
                ends = tuple(
                    dataclasses.replace(e, host_id=host_id) if e.transport == "shm" else e for e in grant.endpoints
                )
                grant = dataclasses.replace(grant, endpoints=ends)
            pair.sender.grant(grant)
            pair.offer_all(key)
            pair.seal(key)
            pair.sent.wait(lambda: len(pair.sent.committed) == number + 1)  # noqa: B023
        assert [pair.sent.committed[key_of(number)].transport for number in range(2)] == ["shm", "tcp"]


def test_unreachable_shm_falls_back_to_tcp() -> None:
    with kv_pair() as pair:
        pair.fill(KEY, 2)
        grant = pair.expect(KEY, 2)
        ends = tuple(dataclasses.replace(e, address="gone") if e.transport == "shm" else e for e in grant.endpoints)
        pair.sender.grant(dataclasses.replace(grant, endpoints=ends))
        pair.offer_all(KEY)
        pair.seal(KEY)
        pair.sent.wait(lambda: KEY in pair.sent.committed)
        assert pair.sent.committed[KEY].transport == "tcp"


def test_other_layout_gets_no_byte() -> None:
    other = dataclasses.replace(SMALL_LAYOUT, rope_digest="other")
    with kv_pair(sender_layout=other) as pair:
        pair.fill(KEY, 2)
        pair.offer_all(KEY)
        with pytest.raises(LayoutMismatch):
            pair.sender.grant(pair.expect(KEY, 2))
        assert pair.sender.held() == ()
        assert pair.sender.snapshot().num_bytes == pair.receiver.snapshot().num_bytes == 0
        assert pair.target.num_writes == 0
        assert not [thread for thread in threading.enumerate() if thread.name == "kv-send"]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_other_layout_is_refused_at_hello_too(transport: TransportName) -> None:
    """A sender that believes a forged grant still meets the receiver's own check."""
    other = dataclasses.replace(SMALL_LAYOUT, rope_digest="other")
    with kv_pair(sender_layout=other, transports=[transport]) as pair:
        pair.fill(KEY, 2)
        grant = dataclasses.replace(pair.expect(KEY, 2), layout_fingerprint=other.fingerprint)
        pair.offer_all(KEY)
        pair.sender.grant(grant)
        pair.sent.wait(lambda: KEY in pair.sent.failed)
        assert pair.sent.failed[KEY] == (reasons.KV_LAYOUT, False)
        assert pair.target.num_writes == 0
        eventually(lambda: pair.receiver.snapshot().refused_connections == 1)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_grant_of_an_earlier_life_is_refused(transport: TransportName) -> None:
    """Failure mode 7: the address answers, but it is another process now."""
    with kv_pair(transports=[transport]) as pair:
        pair.fill(KEY, 2)
        grant = dataclasses.replace(pair.expect(KEY, 2), dst_epoch=21)
        pair.offer_all(KEY)
        pair.sender.grant(grant)
        pair.sent.wait(lambda: KEY in pair.sent.failed)
        assert pair.sent.failed[KEY] == (reasons.KV_PEER_LOST, True)
        assert pair.target.num_writes == 0
        eventually(lambda: pair.receiver.snapshot().stale_epoch == 1)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_source_that_changed_hands_is_never_sent(transport: TransportName) -> None:
    """Failure mode 18: P freed its blocks (lease, cancel) and gave them to somebody else."""
    with kv_pair(transports=[transport], num_blocks=4) as pair:
        pair.fill(KEY, 4)
        pair.offer_all(KEY)
        pair.seal(KEY)
        pair.source.free(KEY)
        pair.fill(key_of(9), 4, seed=9)
        pair.sender.grant(pair.expect(KEY, 4))
        pair.sent.wait(lambda: KEY in pair.sent.failed)
        pair.received.wait(lambda: KEY in pair.received.failed)
        assert pair.sent.failed[KEY] == (reasons.KV_LEASE, True)
        assert pair.sender.snapshot().stale_source == 1
        assert pair.target.num_writes == 0


def test_mutant_without_source_check_sends_foreign_bytes() -> None:
    """The test above has power: without the check, the same race hands over another request's KV and says OK."""
    with kv_pair(num_blocks=4, guarded_source=False) as pair:
        data = pair.fill(KEY, 4)
        pair.offer_all(KEY)
        pair.seal(KEY)
        pair.source.free(KEY)
        pair.fill(key_of(9), 4, seed=9)
        grant = pair.expect(KEY, 4)
        pair.sender.grant(grant)
        pair.sent.wait(lambda: KEY in pair.sent.committed)
        assert pair.target_bytes(grant) != data


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_destination_that_changed_hands_is_never_written(transport: TransportName) -> None:
    """Like vllm #32255: D freed and reused its blocks without telling anybody."""
    with kv_pair(transports=[transport], num_blocks=4) as pair:
        pair.fill(KEY, 4)
        grant = pair.expect(KEY, 4)
        pair.target.free(KEY)
        pair.target.allocate(key_of(9), 4)
        before = bytes(pair.target.data)
        pair.sender.grant(grant)
        pair.offer_all(KEY)
        pair.seal(KEY)
        pair.sent.wait(lambda: KEY in pair.sent.failed)
        pair.received.wait(lambda: KEY in pair.received.failed)
        assert bytes(pair.target.data) == before
        assert pair.receiver.snapshot().stale_generation >= 1


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_wrong_prompt_is_refused(transport: TransportName) -> None:
    with kv_pair(transports=[transport]) as pair:
        pair.fill(KEY, 2)
        pair.sender.grant(pair.expect(KEY, 2))
        pair.offer_all(KEY)
        pair.sender.seal(KEY, 2, b"other tokens", b"first")
        pair.received.wait(lambda: KEY in pair.received.failed)
        pair.sent.wait(lambda: KEY in pair.sent.failed)
        assert pair.received.failed[KEY] == pair.sent.failed[KEY] == (reasons.KV_INTEGRITY, True)
        assert pair.receiver.snapshot().digest_mismatch == 1


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("side", ["sender", "receiver"])
@pytest.mark.parametrize("num_offered", range(5))
def test_abort_at_each_block(transport: TransportName, side: str, num_offered: int) -> None:
    """Failure mode 24: abort after k blocks; both sides let go, and late offers do not revive it."""
    with kv_pair(transports=[transport], num_blocks=4) as pair:
        pair.fill(KEY, 4)
        pair.sender.grant(pair.expect(KEY, 4))
        for ordinal, ref in enumerate(pair.source_refs[KEY][:num_offered]):
            pair.sender.offer(KEY, ordinal, ref)
        eventually(lambda: pair.receiver.snapshot().num_chunks == num_offered)
        eventually(lambda: pair.sender._transfers[KEY].link.transport != "")  # type: ignore[union-attr]
        if side == "sender":
            pair.sender.abort(KEY, "CANCELLED")
            pair.sender.abort(KEY, "CANCELLED")
            pair.received.wait(lambda: KEY in pair.received.failed)
            assert pair.received.failed == {KEY: ("CANCELLED", True)}
        else:
            pair.receiver.abort(KEY, "CANCELLED")
            pair.receiver.abort(KEY, "CANCELLED")
            pair.sent.wait(lambda: KEY in pair.sent.failed)
        pair.source.free(KEY)
        pair.target.free(KEY)
        pair.offer_all(KEY)
        pair.seal(KEY)
        check_idle(pair)
        eventually(lambda: pair.source.num_free() == pair.target.num_free() == 4)
        assert pair.received.ready == {}
        assert pair.sent.committed == {}


def test_abort_before_anything_else() -> None:
    """Like vllm #41269: the cancel overtakes grant and offers; nothing is started and nothing leaks."""
    with kv_pair() as pair:
        pair.sender.abort(KEY, "CANCELLED")
        pair.fill(KEY, 2)
        pair.offer_all(KEY)
        pair.seal(KEY)
        pair.sender.grant(pair.expect(KEY, 2))
        assert pair.sender.held() == ()
        pair.receiver.abort(KEY, "CANCELLED")
        assert pair.receiver.wanted() == ()
        with pytest.raises(InvalidArgument, match="before"):
            pair.receiver.expect(KEY, [pair.source_refs[KEY][0]], TOKENS, 1.0)


def test_sealed_prompt_that_nobody_fetches_is_released_by_its_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    with kv_pair() as pair:
        monkeypatch.setattr(pair.sender._leases, "_lease_s", 0.2)
        pair.fill(KEY, 1)
        pair.offer_all(KEY)
        pair.seal(KEY)
        pair.sent.wait(lambda: KEY in pair.sent.failed)
        assert pair.sent.failed[KEY] == (reasons.KV_LEASE, True)


def test_deadline_ends_both_sides() -> None:
    with kv_pair() as pair:
        pair.fill(KEY, 2)
        pair.sender.grant(pair.expect(KEY, 2, deadline_left_s=0.3))
        pair.received.wait(lambda: KEY in pair.received.failed)
        pair.sent.wait(lambda: KEY in pair.sent.failed)
        assert pair.received.failed[KEY] == (reasons.KV_TIMEOUT, True)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_pause_of_the_engine_is_no_timeout(transport: TransportName) -> None:
    """A prefill chunk may take longer than the idle time: the link's beats say that P is alive."""
    with kv_pair(transports=[transport]) as pair:
        data = pair.fill(KEY, 2)
        grant = pair.expect(KEY, 2)
        pair.sender.grant(grant)
        pair.sender.offer(KEY, 0, pair.source_refs[KEY][0])
        time.sleep(2.8)
        pair.sender.offer(KEY, 1, pair.source_refs[KEY][1])
        pair.seal(KEY)
        pair.sent.wait(lambda: KEY in pair.sent.committed)
        assert pair.target_bytes(grant) == data


def test_receiver_that_cannot_adopt_tells_the_sender() -> None:
    with kv_pair() as pair:

        def refuse(*_: object) -> None:
            raise RuntimeError("engine is gone")

        pair.received.on_ready = refuse  # type: ignore[assignment, method-assign]
        pair.fill(KEY, 1)
        pair.sender.grant(pair.expect(KEY, 1))
        pair.offer_all(KEY)
        pair.seal(KEY)
        pair.sent.wait(lambda: KEY in pair.sent.failed)
        assert pair.sent.failed[KEY] == (reasons.ENGINE, True)
        check_idle(pair)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_nothing_is_left_after_close(transport: TransportName) -> None:
    fds, threads = num_fds(), threading.active_count()
    shm = set(os.listdir("/dev/shm")) if Path("/dev/shm").is_dir() else set()
    for _ in range(3):
        with kv_pair(transports=[transport]) as pair:
            for number in range(3):
                pair.fill(key_of(number), 2)
                pair.sender.grant(pair.expect(key_of(number), 2))
                pair.offer_all(key_of(number))
            pair.seal(key_of(0))
            pair.sent.wait(lambda: key_of(0) in pair.sent.committed)
        assert (pair.source.num_free(), pair.target.num_free()) == (58, 58)
    eventually(lambda: (threading.active_count(), num_fds()) == (threads, fds))
    if Path("/dev/shm").is_dir():
        assert set(os.listdir("/dev/shm")) <= shm
