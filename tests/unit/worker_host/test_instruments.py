"""What a worker measures: each figure once, under labels whose number is bounded."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.core.ids import RequestId, WorkerId
from tandem.core.messages import AttemptFailed, PrefillDone, RequestEvent
from tandem.core.types import Role, TokenDelta, WorkerLoad
from tandem.engine.results import StepResult, StepStats
from tandem.kvtransfer.stats import TransferStats
from tandem.worker_host.instruments import OTHER_REASON, WorkerInstruments
from tests.fakes.measured import Measured, labels

DECODE = labels(role="decode")


class _Bench:
    def __init__(self, role: Role = Role.DECODE) -> None:
        self.measured = Measured()
        self.instruments = WorkerInstruments(meter=self.measured.meter, role=role)

    def step(self, *events: RequestEvent, **stats: float) -> None:
        self.instruments.stepped(StepResult(events=events, stats=StepStats(**stats)))  # type: ignore[arg-type]


def _failed(reason: str, child: int | None = None) -> AttemptFailed:
    return AttemptFailed(
        request_id=RequestId("secret-id"),
        attempt=0,
        reason=reason,
        message="secret words",
        retryable=False,
        child=child,
    )


def test_a_step_is_timed_and_its_tokens_are_counted() -> None:
    bench = _Bench()
    bench.step(wall_s=0.25, num_prefill_tokens=64, num_decode_rows=3, num_preempted=2)
    bench.step(wall_s=0.5, num_decode_rows=4)
    assert bench.measured.sums("tandem.engine.step.duration") == {DECODE: pytest.approx(0.75)}
    assert bench.measured.counts("tandem.engine.step.duration") == {DECODE: 2}
    assert bench.measured.sums("tandem.engine.prefill_tokens") == {DECODE: 64}
    assert bench.measured.sums("tandem.engine.decode_tokens") == {DECODE: 7}
    assert bench.measured.sums("tandem.engine.preemptions") == {DECODE: 2}


def test_what_did_not_happen_makes_no_series() -> None:
    bench = _Bench(Role.PREFILL)
    bench.step(wall_s=0.1, num_prefill_tokens=5)
    assert bench.measured.names() == {"tandem.engine.step.duration", "tandem.engine.prefill_tokens"}
    assert set(bench.measured.sums("tandem.engine.prefill_tokens")) == {labels(role="prefill")}


def test_cached_tokens_are_those_of_the_prompt_not_of_its_earlier_chunks() -> None:
    bench = _Bench()
    done = PrefillDone(request_id=RequestId("r"), attempt=0, wait_ms=1.0, compute_ms=1.0, num_cached_tokens=48)
    bench.step(num_prefill_tokens=16, num_cached_tokens=16)
    bench.step(done, num_prefill_tokens=16, num_cached_tokens=32)
    assert bench.measured.sums("tandem.engine.cached_tokens") == {DECODE: 48}


def test_failures_of_a_step_are_counted_by_reason() -> None:
    bench = _Bench()
    bench.step(_failed("NUMERICS", child=1), _failed("ENGINE_FAILED"), _failed("NUMERICS"))
    assert bench.measured.sums("tandem.worker.attempt_failures") == {
        labels(role="decode", reason="NUMERICS"): 2,
        labels(role="decode", reason="ENGINE_FAILED"): 1,
    }
    assert "tandem.kv.handover.failures" not in bench.measured.names()


def test_hand_overs_are_told_apart_by_transport() -> None:
    bench = _Bench()
    for transport, num_bytes in (("shm", 100), ("tcp", 7), ("shm", 1)):
        bench.instruments.handed_over(
            TransferStats(transport=transport, num_bytes=num_bytes, num_chunks=1, total_s=0.5, exposed_s=0.1)
        )
    assert bench.measured.sums("tandem.kv.handover.bytes") == {labels(transport="shm"): 101, labels(transport="tcp"): 7}
    assert bench.measured.sums("tandem.kv.handover.skipped") == {}
    stats = TransferStats(transport="shm", num_bytes=0, num_chunks=0, total_s=0.5, exposed_s=0.1, num_skipped_bytes=9)
    bench.instruments.handed_over(stats)
    assert bench.measured.sums("tandem.kv.handover.skipped") == {labels(transport="shm"): 9}
    assert bench.measured.counts("tandem.kv.handover.duration") == {
        labels(transport="shm"): 3,
        labels(transport="tcp"): 1,
    }
    assert bench.measured.sums("tandem.kv.handover.duration")[labels(transport="shm")] == pytest.approx(1.5)


def test_a_failed_hand_over_is_a_failed_attempt_as_well() -> None:
    bench = _Bench(Role.PREFILL)
    bench.instruments.handover_failed("KV_PEER_LOST")
    bench.instruments.attempt_failed("DRAINING")
    lost, draining = (labels(role="prefill", reason=reason) for reason in ("KV_PEER_LOST", "DRAINING"))
    assert bench.measured.sums("tandem.kv.handover.failures") == {lost: 1}
    assert bench.measured.sums("tandem.worker.attempt_failures") == {lost: 1, draining: 1}


@settings(max_examples=20)
@given(st.lists(st.text(max_size=8), max_size=100))
def test_reasons_from_outside_make_a_bounded_number_of_series(reasons: list[str]) -> None:
    bench = _Bench()
    for reason in itertools.chain(reasons, (f"R{i}" for i in range(100)), reasons):
        bench.instruments.handover_failed(reason)
    sums = bench.measured.sums("tandem.kv.handover.failures")
    assert len(sums) <= 65  # 64 reasons and the rest
    assert sum(sums.values()) == 2 * len(reasons) + 100
    assert labels(role="decode", reason=OTHER_REASON) in sums


def test_load_is_read_when_somebody_looks() -> None:
    bench = _Bench()
    loads = iter(
        WorkerLoad(num_running=i, num_waiting=10 + i, free_blocks=20 + i, total_blocks=99, receiving_blocks=3)
        for i in range(100)
    )
    current = next(loads)
    bench.instruments.show_load(WorkerId("decode-7"), lambda: current)
    worker = labels(worker_id="decode-7")
    assert bench.measured.sums("tandem.worker.running_sequences") == {worker: 0}
    current = next(loads)
    assert bench.measured.sums("tandem.worker.running_sequences") == {worker: 1}
    assert bench.measured.sums("tandem.worker.waiting_sequences") == {worker: 11}
    assert bench.measured.sums("tandem.worker.kv_free_blocks") == {worker: 21}
    assert bench.measured.sums("tandem.worker.kv_blocks") == {worker: 99}
    assert bench.measured.sums("tandem.worker.kv_receiving_blocks") == {worker: 3}


def test_no_label_names_a_request_or_what_was_said() -> None:
    bench = _Bench()
    delta = TokenDelta(
        request_id=RequestId("secret-id"), attempt=0, child=0, position=0, token_ids=(424242,), text="secret words"
    )
    done = PrefillDone(request_id=RequestId("secret-id"), attempt=0, wait_ms=1.0, compute_ms=1.0, num_cached_tokens=1)
    bench.instruments.stepped(StepResult(tokens=(delta,), events=(_failed("X"), done), stats=StepStats(wall_s=1.0)))
    found = {pair for name in bench.measured.names() for key in bench.measured.sums(name) for pair in key}
    assert found == {("tandem.role", "decode"), ("tandem.reason", "X")}
