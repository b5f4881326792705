"""The JSON form of events: every kind goes there and back."""

from typing import get_args

import msgspec
import pytest

from tandem.core.blocks import BlockRef
from tandem.core.event_log import events as ev
from tandem.core.event_log.record import LineEncoder, ProcessLife, decode_line
from tandem.core.types import Role

REF = BlockRef(7, 4_000_000_000)
ONE_OF_EACH: list[ev.Event] = [
    ev.LogOpened(version=1, host="h", pid=1),
    ev.LogClosed(),
    ev.RecordsLost(count=3),
    ev.ProcessPaused(seconds=1.5),
    ev.BlocksAllocated(request="r", attempt=1, state="filling", blocks=(REF, REF)),
    ev.BlocksRekeyed(request="r", from_attempt=0, attempt=1, blocks=(REF,)),
    ev.BlocksSealed(blocks=(REF,)),
    ev.BlocksCommitted(request="r", attempt=1, blocks=(REF,)),
    ev.BlocksCached(request="r", attempt=1, blocks=(REF,)),
    ev.BlocksBorrowed(request="r", attempt=1, blocks=(REF,)),
    ev.BlocksReturned(request="r", attempt=1, blocks=(REF,)),
    ev.BlocksFreed(blocks=()),
    ev.BlockPinned(request="r", attempt=1, block=REF, purpose="read"),
    ev.BlockUnpinned(block=REF),
    ev.GrantMade(request="r", attempt=1, blocks=(REF,), deadline_left_s=2.0),
    ev.GrantEnded(request="r", attempt=1, how="failed", reason="KV_TIMEOUT"),
    ev.ChunkAccepted(request="r", attempt=1, seq=0, epoch=2**63 - 1, named=REF, target=REF),
    ev.ChunkDropped(counter="stale_epoch", epoch=1, named=REF),
    ev.ReadRefused(request="r", attempt=1, block=REF),
    ev.HandoverSealed(request="r", attempt=1, num_blocks=2),
    ev.HandoverCommitted(request="r", attempt=1),
    ev.CommitAcknowledged(request="r", attempt=1),
    ev.DecodeStep(rows=(ev.StepRow("r", 1, 0, 17, (REF, REF)),)),
    ev.RequestAccepted(request="r", num_sequences=2),
    ev.Dispatched(request="r", attempt=0, prefill="", prefill_epoch=0, decode="decode-0", decode_epoch=2**63 - 1),
    ev.Requeued(request="r", attempt=1, reason="WORKER_LOST"),
    ev.TokensForwarded(request="r", child=0, position=5, count=2),
    ev.RequestEnded(request="r", outcome="ok", reason="", num_output_tokens=7),
    ev.UsageRecorded(request="r", num_prompt_tokens=3, num_output_tokens=7),
    ev.WorkerJudged(worker="decode-0", worker_epoch=9, health="suspect"),
    ev.RoleChanged(role=Role.DECODE, state="serving"),
]


def test_there_is_one_of_each() -> None:
    assert {type(event) for event in ONE_OF_EACH} == set(get_args(ev.Event))
    assert len(set(ev.KINDS.values())) == len(ev.KINDS)


@pytest.mark.parametrize("event", ONE_OF_EACH, ids=lambda event: ev.KINDS[type(event)])
def test_there_and_back(event: ev.Event) -> None:
    buffer = bytearray()
    LineEncoder(ProcessLife("p", 3)).append(buffer, 12.3456789, event)
    assert buffer.endswith(b"}\n")
    assert buffer.count(b"\n") == 1
    record = decode_line(bytes(buffer))
    assert (record.process, record.epoch, record.event) == ("p", 3, event)
    assert record.t == pytest.approx(12.3456789, abs=1e-6)


def test_blocks_are_pairs_and_the_kind_has_a_name() -> None:
    buffer = bytearray()
    LineEncoder(ProcessLife("p", 3)).append(buffer, 0.5, ev.BlockUnpinned(block=REF))
    expected = b'{"process":"p","epoch":3,"t":0.500000,"event":{"kind":"block_unpinned","block":[7,4000000000]}}\n'
    assert bytes(buffer) == expected


@pytest.mark.parametrize("line", [b"", b"{}", b"[]", b'{"process":"p","epoch":3,"t":0.5,"event":{"kind":"new_kind"}}'])
def test_anything_else_is_refused(line: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode_line(line)
