"""The prefill role over a scripted engine and a noted sender."""

from dataclasses import replace
from typing import cast

import pytest

from tandem.core.blocks import AttemptKey, BlockRef, FirstToken
from tandem.core.errors import TandemError, Unavailable
from tandem.core.ids import LOCAL_TENANT, Epoch, RequestId
from tandem.core.messages import (
    Abort,
    AttemptFailed,
    AttemptReleased,
    ForwardGrant,
    PrefillDone,
    ReserveDecode,
    StartPrefill,
    StepReport,
    WorkerMessage,
)
from tandem.core.reasons import ENGINE, FINISHED, KV_INTEGRITY, KV_LEASE, KV_NOT_HELD, KV_PEER_LOST, WRONG_ROLE
from tandem.core.types import GenerationTask, KvSource, Role, SamplingParams, StopParams, TokenDelta, WorkerLoad
from tandem.engine.engine import Engine
from tandem.engine.results import FilledBlocks, SealedPrefill, StepResult
from tandem.kvtransfer.errors import LayoutMismatch
from tandem.kvtransfer.grant import KvEndpoint, KvGrant
from tandem.kvtransfer.stats import TransferStats
from tandem.kvtransfer.timing import LEASE_RENEWAL_S
from tandem.prefill_worker.role import PrefillRole
from tandem.prefill_worker.sender_events import SenderRelay
from tandem.worker_host.first_tokens import decode_first_tokens
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
)
GRANT = KvGrant(
    request_id="r",
    attempt=0,
    layout_fingerprint="0" * 64,
    dst_worker_id="decode-0",
    dst_epoch=5,
    blocks=(BlockRef(1, 1),),
    chunk_bytes=1024,
    endpoints=(KvEndpoint(transport="tcp", address="127.0.0.1:1", host_id=""),),
    secret=b"s" * 16,
    deadline_left_s=5.0,
)
STATS = TransferStats(transport="tcp", num_bytes=1, num_chunks=1, total_s=0.1, exposed_s=0.1)


class _Sender:
    """Notes what the role asks of the sender."""

    num_open = 0

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.refuse_with: TandemError | None = None

    def grant(self, grant: KvGrant, prefix_key: bytes = b"") -> None:
        self.calls.append(("grant", grant))
        if self.refuse_with is not None:
            raise self.refuse_with

    def offer(self, key: AttemptKey, ordinal: int, ref: BlockRef) -> None:
        self.calls.append(("offer", key, ordinal, ref))

    def seal(self, key: AttemptKey, *, num_blocks: int, token_digest: bytes, payload: bytes) -> None:
        self.calls.append(("seal", key, num_blocks, token_digest, payload))

    def abort(self, key: AttemptKey, reason: str) -> None:
        self.calls.append(("abort", key, reason))

    def close(self) -> None:
        self.calls.append(("close",))


class _Bench:
    def __init__(self) -> None:
        self.engine, self.sender = ScriptedEngine(), _Sender()
        self.inbox, self.outbox = Inbox(), Outbox(Epoch(1))
        self.measured = Measured()
        self.relays: list[SenderRelay] = []
        self.role = PrefillRole(
            engine=cast(Engine, self.engine),
            outbox=self.outbox,
            inbox=self.inbox,
            instruments=WorkerInstruments(meter=self.measured.meter, role=Role.PREFILL),
            make_sender=self._make_sender,
        )
        self.reports: list[StepReport] = []
        self.outbox.open_session("a", self._take)
        self.outbox.bind(KEY, "a")
        self.role.handle(StartPrefill(task=TASK))

    def _make_sender(self, relay: SenderRelay) -> _Sender:
        self.relays.append(relay)
        return self.sender

    def _take(self, message: WorkerMessage) -> None:
        assert isinstance(message, StepReport)
        self.reports.append(message)

    def events(self) -> list[object]:
        self.inbox.run_waiting()
        self.outbox.flush(WorkerLoad())
        return [event for report in self.reports for event in report.events]

    def seal(self, *, finished: bool) -> None:
        first = FirstToken(child=0, token_id=9, finished=finished)
        self.role.after_step(
            StepResult(sealed=(SealedPrefill(key=KEY, num_blocks=1, num_tokens=3, first_tokens=(first,)),))
        )


def test_it_prefills_and_says_so() -> None:
    bench = _Bench()
    assert bench.role.role is Role.PREFILL
    assert bench.engine.named("start_prefill") == [("start_prefill", TASK)]


def test_finished_blocks_are_offered_as_they_come() -> None:
    bench = _Bench()
    refs = (BlockRef(4, 1), BlockRef(6, 2))
    bench.role.after_step(StepResult(filled=(FilledBlocks(key=KEY, first_ordinal=2, refs=refs),)))
    assert bench.sender.calls == [("offer", KEY, 2, refs[0]), ("offer", KEY, 3, refs[1])]


def test_the_seal_carries_first_tokens_and_the_digest_of_the_prompt() -> None:
    bench = _Bench()
    bench.seal(finished=False)
    name, key, num_blocks, digest, payload = bench.sender.calls[-1]
    assert (name, key, num_blocks, digest) == ("seal", KEY, 1, digest_tokens(TASK))
    assert isinstance(payload, bytes)
    assert decode_first_tokens(payload) == (FirstToken(child=0, token_id=9, finished=False),)
    assert bench.engine.named("release") == []


def test_tokens_reach_the_router_before_any_grant() -> None:
    bench = _Bench()
    delta = TokenDelta(request_id=RequestId("r"), attempt=0, child=0, position=0, token_ids=(9,), text="x")
    bench.role.after_step(StepResult(tokens=(delta,)))
    bench.events()
    assert [t for report in bench.reports for t in report.tokens] == [delta]


def test_when_all_finished_nothing_is_handed_over() -> None:
    bench = _Bench()
    bench.seal(finished=True)
    assert ("abort", KEY, FINISHED) in bench.sender.calls
    assert bench.engine.named("release") == [("release", KEY)]
    assert [type(e) for e in bench.events()] == [AttemptReleased]


def test_what_a_step_said_is_said_before_the_attempt_ends() -> None:
    bench = _Bench()
    done = PrefillDone(request_id=RequestId("r"), attempt=0, wait_ms=1.0, compute_ms=2.0, num_cached_tokens=0)
    first = FirstToken(child=0, token_id=9, finished=True)
    sealed = SealedPrefill(key=KEY, num_blocks=1, num_tokens=3, first_tokens=(first,))
    bench.role.after_step(StepResult(events=(done,), sealed=(sealed,)))
    assert [type(e) for e in bench.events()] == [PrefillDone, AttemptReleased]


def test_a_commit_frees_the_blocks_on_the_engine_thread() -> None:
    bench = _Bench()
    bench.seal(finished=False)
    bench.relays[0].on_committed(KEY, STATS)
    assert bench.engine.named("release") == []  # not on the sender's thread
    assert [type(e) for e in bench.events()] == [AttemptReleased]
    assert bench.engine.named("release") == [("release", KEY)]


def test_a_failed_hand_over_is_told_and_the_kv_is_held_for_a_lease() -> None:
    bench = _Bench()
    bench.seal(finished=False)
    bench.relays[0].on_failed(KEY, KV_PEER_LOST, True)
    (event,) = bench.events()
    assert isinstance(event, AttemptFailed)
    assert (event.reason, event.retryable, event.held) == (KV_PEER_LOST, True, True)
    assert bench.engine.named("abort") == []
    assert bench.engine.named("hold") == [("hold", KEY, LEASE_RENEWAL_S)]
    assert bench.outbox.knows(KEY)


@pytest.mark.parametrize("reason", [KV_INTEGRITY, KV_LEASE, ENGINE])
def test_kv_that_may_be_bad_or_is_no_longer_leased_is_freed(reason: str) -> None:
    bench = _Bench()
    bench.seal(finished=False)
    bench.relays[0].on_failed(KEY, reason, True)
    (event,) = bench.events()
    assert isinstance(event, AttemptFailed)
    assert not event.held
    assert bench.engine.named("abort") == [("abort", KEY, None)]
    assert not bench.outbox.knows(KEY)


def test_held_kv_is_freed_by_an_abort() -> None:
    bench = _Bench()
    bench.seal(finished=False)
    bench.relays[0].on_failed(KEY, KV_PEER_LOST, True)
    bench.inbox.run_waiting()
    bench.role.abort(Abort(request_id=RequestId("r"), attempt=0, reason="X"))
    assert bench.engine.named("abort") == [("abort", KEY, None)]
    assert isinstance(bench.events()[-1], AttemptReleased)


AGAIN = AttemptKey(RequestId("r"), 1)


def _sealed_and_held() -> _Bench:
    bench = _Bench()
    done = PrefillDone(request_id=RequestId("r"), attempt=0, wait_ms=3.0, compute_ms=40.0, num_cached_tokens=0)
    delta = TokenDelta(request_id=RequestId("r"), attempt=0, child=0, position=0, token_ids=(9,), text="x")
    filled = FilledBlocks(key=KEY, first_ordinal=0, refs=(BlockRef(4, 1),))
    first = FirstToken(child=0, token_id=9, finished=False)
    sealed = SealedPrefill(key=KEY, num_blocks=1, num_tokens=3, first_tokens=(first,))
    bench.role.after_step(StepResult(tokens=(delta,), events=(done,), filled=(filled,), sealed=(sealed,)))
    bench.relays[0].on_failed(KEY, KV_PEER_LOST, True)
    bench.events()
    bench.reports.clear()
    bench.sender.calls.clear()
    bench.outbox.bind(AGAIN, "a")
    return bench


def test_held_kv_is_handed_over_again_without_computing() -> None:
    bench = _sealed_and_held()
    task = replace(TASK, attempt=1, deadline_left_s=3.0)
    bench.role.handle(StartPrefill(task=task, reuse_attempt=0))
    assert bench.engine.named("rekey") == [("rekey", KEY, task)]
    assert len(bench.engine.named("start_prefill")) == 1
    names = [(call[0], call[1]) for call in bench.sender.calls]
    assert names == [("abort", KEY), ("offer", AGAIN), ("seal", AGAIN)]
    assert bench.sender.calls[-1][3] == digest_tokens(TASK)
    released, done = bench.events()
    assert isinstance(released, AttemptReleased)
    assert isinstance(done, PrefillDone)
    assert (released.attempt, done.attempt, done.compute_ms, done.wait_ms) == (0, 1, 0.0, 0.0)
    (report,) = bench.reports
    assert [(delta.attempt, delta.position, delta.token_ids) for delta in report.tokens] == [(1, 0, (9,))]
    bench.relays[0].on_committed(AGAIN, STATS)
    assert isinstance(bench.events()[-1], AttemptReleased)
    assert bench.engine.named("release") == [("release", AGAIN)]


def test_late_words_about_the_first_hand_over_do_not_touch_the_second() -> None:
    bench = _sealed_and_held()
    bench.role.handle(StartPrefill(task=replace(TASK, attempt=1), reuse_attempt=0))
    bench.relays[0].on_committed(KEY, STATS)
    bench.relays[0].on_failed(KEY, KV_PEER_LOST, True)
    bench.inbox.run_waiting()
    assert bench.engine.named("release") == []
    assert bench.engine.named("abort") == []


def test_what_is_not_held_any_more_is_refused_and_not_computed() -> None:
    bench = _sealed_and_held()
    bench.engine.has_kv = False
    with pytest.raises(Unavailable) as caught:
        bench.role.handle(StartPrefill(task=replace(TASK, attempt=1), reuse_attempt=0))
    assert caught.value.reason == KV_NOT_HELD
    with pytest.raises(Unavailable):
        bench.role.handle(StartPrefill(task=replace(TASK, attempt=1), reuse_attempt=7))
    assert len(bench.engine.named("start_prefill")) == 1


def test_kv_of_another_prompt_is_never_handed_over() -> None:
    bench = _sealed_and_held()
    other = replace(TASK, attempt=1, prompt_token_ids=(1, 2, 4))
    with pytest.raises(Unavailable):
        bench.role.handle(StartPrefill(task=other, reuse_attempt=0))
    assert bench.engine.named("rekey") == []


def test_grants_go_to_the_sender_unless_the_attempt_is_gone() -> None:
    bench = _Bench()
    forward = ForwardGrant(request_id=RequestId("r"), attempt=0, grant=GRANT.to_bytes())
    bench.role.handle(forward)
    assert bench.sender.calls == [("grant", GRANT)]
    bench.role.abort(Abort(request_id=RequestId("r"), attempt=0, reason="X"))
    bench.sender.calls.clear()
    bench.role.handle(forward)
    assert bench.sender.calls == []


def test_a_grant_of_another_layout_fails_the_attempt() -> None:
    bench = _Bench()
    bench.sender.refuse_with = LayoutMismatch(own="a" * 64, other="b" * 64)
    bench.role.handle(ForwardGrant(request_id=RequestId("r"), attempt=0, grant=GRANT.to_bytes()))
    (event,) = bench.events()
    assert isinstance(event, AttemptFailed)
    assert not event.retryable
    assert bench.engine.named("abort") == [("abort", KEY, None)]


def test_abort_tells_sender_engine_and_router() -> None:
    bench = _Bench()
    bench.role.abort(Abort(request_id=RequestId("r"), attempt=0, reason="CLIENT_CANCELLED"))
    assert ("abort", KEY, "CLIENT_CANCELLED") in bench.sender.calls
    assert bench.engine.named("abort") == [("abort", KEY, None)]
    assert [type(e) for e in bench.events()] == [AttemptReleased]


def test_aborting_one_child_leaves_the_hand_over_alone() -> None:
    bench = _Bench()
    bench.role.abort(Abort(request_id=RequestId("r"), attempt=0, reason="X", child=1))
    assert bench.engine.named("abort") == [("abort", KEY, 1)]
    assert bench.sender.calls == []
    assert bench.events() == []


def test_an_engine_failure_ends_the_hand_over() -> None:
    bench = _Bench()
    failed = AttemptFailed(request_id=RequestId("r"), attempt=0, reason="NUMERICS", message="", retryable=False)
    bench.role.after_step(StepResult(events=(failed,)))
    assert ("abort", KEY, "NUMERICS") in bench.sender.calls
    assert bench.events() == [failed]


def test_a_childs_failure_does_not_end_the_hand_over() -> None:
    bench = _Bench()
    failed = AttemptFailed(
        request_id=RequestId("r"), attempt=0, reason="NUMERICS", message="", retryable=False, child=0
    )
    bench.role.after_step(StepResult(events=(failed,)))
    assert bench.sender.calls == []


def test_it_does_not_decode_for_others() -> None:
    bench = _Bench()
    with pytest.raises(TandemError) as caught:
        bench.role.handle(ReserveDecode(task=replace(TASK, attempt=1), source=KvSource.LOCAL))
    assert caught.value.reason == WRONG_ROLE


def test_close_closes_the_sender() -> None:
    bench = _Bench()
    bench.role.close()
    assert bench.sender.calls == [("close",)]


def test_failed_hand_overs_are_measured_here_too() -> None:
    bench = _Bench()
    bench.seal(finished=False)
    bench.relays[0].on_failed(KEY, KV_PEER_LOST, True)
    bench.events()
    assert bench.measured.sums("tandem.kv.handover.failures") == {labels(role="prefill", reason=KV_PEER_LOST): 1}


def test_a_committed_hand_over_is_measured_by_the_receiver_alone() -> None:
    bench = _Bench()
    bench.seal(finished=False)
    bench.relays[0].on_committed(KEY, STATS)
    bench.events()
    assert bench.measured.names() == set()
