"""Bugs of the field's engines, workers and routers around a hand-over, re-made on ours."""

import re
from pathlib import Path

import pytest

from tandem.core.messages import AttemptReleased
from tandem.core.types import StopParams
from tandem.engine.attempts import AttemptBook
from tandem.engine.kv.block_table import IntegrityError
from tandem.engine.kv.memory import KvMemory
from tandem.engine.sequence import Attempt
from tandem.kvtransfer.machine import receiver_events as rx
from tandem.kvtransfer.machine.receiver import HandoverReceiver, ReceiverState
from tandem.kvtransfer.timing import LEASE_S
from tandem.router.ledger import RequestLedger
from tests.fakes.engine_driver import assert_idle, copy_blocks, drive, filled_refs, key_of, make_engine, make_task
from tests.fakes.fake_runner import FakeRunner, fake_pool
from tests.stateful.test_ledger import OneSideTold
from tests.unit.engine.loop.test_numerics import Spoiler, engine_over
from tests.unit.kvtransfer.machine_world import BLOCK_BYTES, grant_of
from tests.unit.router.builders import D, P
from tests.unit.router.ledgers import aborted, failed, running

ROOT = Path(__file__).parents[2]
LAST = StopParams(max_tokens=3, ignore_eos=True)


@pytest.mark.parametrize("num_steps", range(6))
@pytest.mark.parametrize("is_committed", [False, True])
def test_like_vllm_29906_an_abort_in_the_last_step(num_steps: int, is_committed: bool) -> None:
    """There the finished request was taken for a success that will be fetched, and its blocks stayed for 480 s."""
    source, target = make_engine(max_batched_tokens=4), make_engine()
    task = make_task(num_prompt=9, stop=LAST)
    source.start_prefill(task)
    out = drive(source)
    refs = target.reserve_decode(task)
    copy_blocks(source, target, key_of(task), zip(filled_refs(out, key_of(task)), refs, strict=True))
    if is_committed:
        target.commit_handover(key_of(task), out.sealed[0].first_tokens)
    for _ in range(num_steps):
        target.step()
    for engine in (source, target):
        engine.abort(key_of(task))
        engine.abort(key_of(task))
        engine.release(key_of(task))
        drive(engine)
        assert_idle(engine)


def test_like_vllm_29906_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """An abort that believes the sealed attempt to be somebody else's leaves its blocks, and the books say so."""
    end = AttemptBook.end

    def lenient(book: AttemptBook, attempt: Attempt) -> None:
        if attempt.is_sealed:
            del book._attempts[attempt.key]
            return
        end(book, attempt)

    monkeypatch.setattr(AttemptBook, "end", lenient)
    engine = make_engine()
    engine.start_prefill(make_task())
    drive(engine)
    with pytest.raises(IntegrityError, match="still owned"):
        engine.abort(key_of(make_task()))


@pytest.mark.parametrize("offset_s", [-3600.0, 0.0, 3600.0])
def test_like_vllm_47021_clocks_that_differ_by_an_hour(offset_s: float) -> None:
    """Each side counts on its own clock what it was told as a duration: an hour apart is no time at all."""
    now_s = 10_000.0 + offset_s
    machine = HandoverReceiver(
        grant=grant_of(1, deadline_left_s=5.0), block_bytes=BLOCK_BYTES, token_digest=b"t", now_s=now_s
    )
    machine.on_event(now_s + 4.9, rx.Tick())
    assert machine.state is ReceiverState.EXPECTING
    machine.on_event(now_s + 5.1, rx.Tick())
    assert machine.is_done
    assert LEASE_S < 60.0  # and no lease bridges two turns of a conversation


def test_like_vllm_47021_nobody_reads_the_time_of_day() -> None:
    """Deadlines, leases and time-outs know the monotonic clock alone; what people read is told the time of day."""
    wall = re.compile(r"\btime\.time\(|datetime\.(now|utcnow)\(|time\.time_ns\(")
    for component in ("kvtransfer", "engine", "worker_host", "prefill_worker", "decode_worker", "router"):
        for path in (ROOT / component / "tandem").rglob("*.py"):
            for_people = path.name == "tracing.py" or path.parent.name == "decisions"
            assert for_people or not wall.search(path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize("is_looked_at", [True, False])
def test_like_vllm_50283_poison_spreads_with_the_kv(is_looked_at: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN in the KV of a prompt whose logits are finite: handed over there, failed alone and cleared here."""
    if not is_looked_at:
        monkeypatch.setattr(KvMemory, "is_finite", lambda memory, refs: True)
    engine = engine_over(Spoiler(FakeRunner(fake_pool(8)), mark=300, position=2))
    engine.start_prefill(make_task("bad", prompt=[300, *range(10, 19)]))
    out = drive(engine)
    assert bool(out.sealed) != is_looked_at
    assert any(result.filled for result in out.results) != is_looked_at


@pytest.mark.parametrize("ledger", [RequestLedger, OneSideTold])
def test_like_dynamo_13855_cancelled_before_the_decode_worker_knows(
    ledger: type[RequestLedger], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There nobody told the prefill worker, which kept the KV until a timer ended it."""
    monkeypatch.setattr("tests.unit.router.ledgers.RequestLedger", ledger)
    told = aborted(running().cancelled(1.5))
    assert (set(told) == {P, D}) == (ledger is RequestLedger)


@pytest.mark.parametrize("ledger", [RequestLedger, OneSideTold])
def test_like_vllm_41269_the_decode_worker_rejects(
    ledger: type[RequestLedger], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rejection that can't be tried again: only the router can tell the prefill worker."""
    monkeypatch.setattr("tests.unit.router.ledgers.RequestLedger", ledger)
    told = aborted(running().on_event(D, failed("INVALID_TASK", retryable=False), 1.5))
    assert (told == [P]) == (ledger is RequestLedger)


def test_like_vllm_50425_an_abort_before_anything_was_sent_frees_both() -> None:
    """Cancelled after the prefill, before the decode worker was ever asked: P's blocks go with the abort, no timer."""
    source = make_engine()
    task = make_task(num_prompt=9, stop=LAST)
    source.start_prefill(task)
    out = drive(source)
    assert out.sealed
    assert source.abort(key_of(task))
    assert_idle(source)
    assert not any(isinstance(event, AttemptReleased) for event in drive(source).events), "said once, by the command"
