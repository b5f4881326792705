"""The decode role over a scripted engine and a noted receiver."""

from collections.abc import Sequence
from typing import cast

import pytest

from tandem.core.blocks import AttemptKey, BlockRef, FirstToken
from tandem.core.errors import NotFound, TandemError, Unavailable
from tandem.core.ids import LOCAL_TENANT, Epoch, RequestId
from tandem.core.messages import (
    Abort,
    AttemptFailed,
    AttemptReleased,
    Granted,
    HandoverDone,
    ReserveDecode,
    StartPrefill,
    StepReport,
    WorkerMessage,
)
from tandem.core.reasons import FINISHED, KV_INTEGRITY, WRONG_ROLE
from tandem.core.types import GenerationTask, KvSource, Role, SamplingParams, StopParams, TokenDelta, WorkerLoad
from tandem.decode_worker.receiver_events import ReceiverRelay
from tandem.decode_worker.role import DecodeRole
from tandem.engine.engine import Engine
from tandem.engine.results import StepResult
from tandem.kvtransfer.grant import KvEndpoint, KvGrant
from tandem.kvtransfer.skipped import SkippedPrefix
from tandem.kvtransfer.stats import TransferStats
from tandem.worker_host.first_tokens import encode_first_tokens
from tandem.worker_host.inbox import Inbox
from tandem.worker_host.instruments import WorkerInstruments
from tandem.worker_host.outbox import Outbox
from tandem.worker_host.token_digest import digest_tokens
from tests.fakes.measured import Measured, labels
from tests.fakes.scripted_engine import ScriptedEngine

KEY = AttemptKey(RequestId("r"), 0)
TASK = GenerationTask(
    request_id=RequestId("r"),
    attempt=0,
    tenant=LOCAL_TENANT,
    prompt_token_ids=(1, 2, 3),
    num_sequences=1,
    sampling=SamplingParams(),
    stop=StopParams(max_tokens=4),
    deadline_left_s=9.0,
)
FIRST = (FirstToken(child=0, token_id=9, finished=False),)
STATS = TransferStats(transport="shm", num_bytes=2048, num_chunks=2, total_s=0.25, exposed_s=0.05)


class _Receiver:
    """Notes what the role asks of the receiver."""

    num_open = 0

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.refuse_with: TandemError | None = None

    def expect(
        self,
        key: AttemptKey,
        refs: Sequence[BlockRef],
        token_digest: bytes,
        deadline_left_s: float,
        skipped: SkippedPrefix | None,
    ) -> KvGrant:
        self.calls.append(("expect", key, tuple(refs), token_digest, deadline_left_s, skipped))
        if self.refuse_with is not None:
            raise self.refuse_with
        return KvGrant(
            request_id=key.request_id,
            attempt=key.attempt,
            layout_fingerprint="0" * 64,
            dst_worker_id="decode-0",
            dst_epoch=5,
            blocks=tuple(refs),
            chunk_bytes=1024,
            endpoints=(KvEndpoint(transport="tcp", address="127.0.0.1:1", host_id=""),),
            secret=b"s" * 16,
            deadline_left_s=deadline_left_s,
        )

    def abort(self, key: AttemptKey, reason: str) -> None:
        self.calls.append(("abort", key, reason))

    def close(self) -> None:
        self.calls.append(("close",))


class _Bench:
    def __init__(self) -> None:
        self.engine, self.receiver = ScriptedEngine(), _Receiver()
        self.inbox, self.outbox = Inbox(), Outbox(Epoch(1))
        self.measured = Measured()
        self.relays: list[ReceiverRelay] = []
        self.role = DecodeRole(
            engine=cast(Engine, self.engine),
            outbox=self.outbox,
            inbox=self.inbox,
            instruments=WorkerInstruments(meter=self.measured.meter, role=Role.DECODE),
            make_receiver=self._make_receiver,
        )
        self.reports: list[StepReport] = []
        self.outbox.open_session("a", self._take)
        self.outbox.bind(KEY, "a")

    def _make_receiver(self, relay: ReceiverRelay) -> _Receiver:
        self.relays.append(relay)
        return self.receiver

    def _take(self, message: WorkerMessage) -> None:
        assert isinstance(message, StepReport)
        self.reports.append(message)

    def reserve(self, source: KvSource = KvSource.HANDOVER) -> None:
        self.role.handle(ReserveDecode(task=TASK, source=source))

    def events(self) -> list[object]:
        self.inbox.run_waiting()
        self.outbox.flush(WorkerLoad())
        found: list[object] = [event for report in self.reports for event in report.events]
        self.reports.clear()
        return found


def test_a_reservation_is_granted_with_blocks_digest_and_deadline() -> None:
    bench = _Bench()
    bench.reserve()
    assert bench.role.role is Role.DECODE
    assert bench.receiver.calls == [("expect", KEY, (BlockRef(3, 1), BlockRef(4, 1)), digest_tokens(TASK), 9.0, None)]
    (event,) = bench.events()
    assert isinstance(event, Granted)
    assert KvGrant.from_bytes(event.grant).blocks == (BlockRef(3, 1), BlockRef(4, 1))


def test_local_work_needs_no_receiver() -> None:
    bench = _Bench()
    bench.reserve(KvSource.LOCAL)
    assert bench.receiver.calls == []
    assert bench.engine.named("start_local") == [("start_local", TASK)]
    assert bench.events() == [Granted(request_id=RequestId("r"), attempt=0, grant=b"")]


def test_verified_kv_is_committed_on_the_engine_thread_and_told() -> None:
    bench = _Bench()
    bench.reserve()
    bench.events()
    bench.relays[0].on_ready(KEY, encode_first_tokens(FIRST), STATS)
    assert bench.engine.named("commit_handover") == []  # not on the receiver's thread
    (event,) = bench.events()
    assert bench.engine.named("commit_handover") == [("commit_handover", KEY, FIRST)]
    assert isinstance(event, HandoverDone)
    assert (event.transport, event.num_bytes, event.handover_ms, event.exposed_ms) == ("shm", 2048, 250.0, 50.0)


def test_kv_that_comes_after_an_abort_is_not_committed() -> None:
    bench = _Bench()
    bench.reserve()
    bench.relays[0].on_ready(KEY, encode_first_tokens(FIRST), STATS)
    bench.role.abort(Abort(request_id=RequestId("r"), attempt=0, reason="X"))
    bench.events()
    assert bench.engine.named("commit_handover") == []


def test_unreadable_first_tokens_fail_the_attempt() -> None:
    bench = _Bench()
    bench.reserve()
    bench.events()
    bench.relays[0].on_ready(KEY, b"rubbish", STATS)
    (event,) = bench.events()
    assert isinstance(event, AttemptFailed)
    assert event.reason == KV_INTEGRITY
    assert bench.engine.named("abort") == [("abort", KEY, None)]


def test_a_reservation_that_is_gone_fails_the_attempt() -> None:
    bench = _Bench()
    bench.reserve()
    bench.events()
    bench.engine.refuse_with = NotFound("gone")
    bench.relays[0].on_ready(KEY, encode_first_tokens(FIRST), STATS)
    (event,) = bench.events()
    assert isinstance(event, AttemptFailed)


def test_a_failed_hand_over_frees_and_is_told() -> None:
    bench = _Bench()
    bench.reserve()
    bench.events()
    bench.relays[0].on_failed(KEY, KV_INTEGRITY, True)
    (event,) = bench.events()
    assert isinstance(event, AttemptFailed)
    assert (event.reason, event.retryable) == (KV_INTEGRITY, True)
    assert bench.engine.named("abort") == [("abort", KEY, None)]


def test_a_prompt_whose_first_tokens_were_its_last_is_no_failure() -> None:
    """P tells D over the KV link, which may be faster than P's tokens are on their way to the router."""
    bench = _Bench()
    bench.reserve()
    bench.events()
    bench.relays[0].on_failed(KEY, FINISHED, True)
    assert bench.events() == [AttemptReleased(request_id=KEY.request_id, attempt=KEY.attempt)]
    assert bench.engine.named("abort") == [("abort", KEY, None)]


def test_a_receiver_that_refuses_leaves_no_reservation() -> None:
    bench = _Bench()
    bench.receiver.refuse_with = Unavailable("closed")
    with pytest.raises(Unavailable):
        bench.reserve()
    assert bench.engine.named("abort") == [("abort", KEY, None)]


def test_abort_tells_the_receiver_only_while_it_receives() -> None:
    bench = _Bench()
    bench.reserve()
    bench.role.abort(Abort(request_id=RequestId("r"), attempt=0, reason="CLIENT_CANCELLED"))
    assert ("abort", KEY, "CLIENT_CANCELLED") in bench.receiver.calls
    assert AttemptReleased(request_id=RequestId("r"), attempt=0) in bench.events()
    bench.receiver.calls.clear()
    bench.role.abort(Abort(request_id=RequestId("r"), attempt=0, reason="AGAIN"))
    assert bench.receiver.calls == []


def test_aborting_one_child_goes_on_receiving() -> None:
    bench = _Bench()
    bench.reserve()
    bench.role.abort(Abort(request_id=RequestId("r"), attempt=0, reason="X", child=1))
    assert bench.engine.named("abort") == [("abort", KEY, 1)]
    assert [call[0] for call in bench.receiver.calls] == ["expect"]


def test_an_engine_failure_stops_the_receiver() -> None:
    bench = _Bench()
    bench.reserve()
    failed = AttemptFailed(
        request_id=RequestId("r"), attempt=0, reason="DEADLINE_EXCEEDED", message="", retryable=False
    )
    bench.role.after_step(StepResult(events=(failed,)))
    assert ("abort", KEY, "DEADLINE_EXCEEDED") in bench.receiver.calls
    assert failed in bench.events()


def test_tokens_pass_through() -> None:
    bench = _Bench()
    bench.reserve()
    delta = TokenDelta(request_id=RequestId("r"), attempt=0, child=0, position=1, token_ids=(9,), text="x")
    bench.role.after_step(StepResult(tokens=(delta,)))
    bench.outbox.flush(WorkerLoad())
    assert [t for report in bench.reports for t in report.tokens] == [delta]


def test_it_does_not_prefill_for_others() -> None:
    bench = _Bench()
    with pytest.raises(TandemError) as caught:
        bench.role.handle(StartPrefill(task=TASK))
    assert caught.value.reason == WRONG_ROLE


def test_close_closes_the_receiver() -> None:
    bench = _Bench()
    bench.role.close()
    assert bench.receiver.calls == [("close",)]


def test_hand_overs_and_their_failures_are_measured() -> None:
    bench = _Bench()
    bench.reserve()
    bench.relays[0].on_ready(KEY, encode_first_tokens(FIRST), STATS)
    bench.events()
    assert bench.measured.sums("tandem.kv.handover.bytes") == {labels(transport="shm"): 2048}
    bench.reserve()
    bench.relays[0].on_failed(KEY, KV_INTEGRITY, True)
    bench.events()
    failed = labels(role="decode", reason=KV_INTEGRITY)
    assert bench.measured.sums("tandem.kv.handover.failures") == {failed: 1}
    assert bench.measured.counts("tandem.kv.handover.duration") == {labels(transport="shm"): 1}


def test_a_hand_over_that_was_aborted_is_neither_done_nor_failed() -> None:
    bench = _Bench()
    bench.reserve()
    bench.relays[0].on_ready(KEY, encode_first_tokens(FIRST), STATS)
    bench.role.abort(Abort(request_id=RequestId("r"), attempt=0, reason="X"))
    bench.events()
    assert bench.measured.names() == set()
