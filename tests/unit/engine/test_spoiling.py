"""The engine's failpoints through the real engine: who is hit, and who is not."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tandem.core.failpoints import VARIABLE, arm_failpoints, disarm_failpoints
from tandem.core.messages import AttemptFailed
from tandem.core.reasons import ENGINE, NUMERICS
from tests.fakes.engine_driver import assert_idle, drive, make_engine, make_task, run_local
from tests.fakes.fake_runner import reference_tokens

MAGIC = 299
PROMPT = (5, MAGIC, 6, 7, 8)


@pytest.fixture(autouse=True)
def armed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    arm_failpoints("w", exposed_by=())
    yield tmp_path / "w.json"
    disarm_failpoints()


def test_a_marked_request_fails_its_pass_and_its_mates_are_told(armed: Path) -> None:
    armed.write_text(json.dumps({"engine.step": {"action": "raise", "mark": MAGIC}}))
    engine = make_engine()
    clean = make_task("clean")
    assert run_local(engine, [clean]).tokens["clean", 0] == reference_tokens(clean)
    out = run_local(engine, [make_task("magic", prompt=PROMPT), make_task("mate")])
    failed = out.events_of(AttemptFailed)
    assert {event.request_id for event in failed if isinstance(event, AttemptFailed)} == {"magic", "mate"}
    assert {event.reason for event in failed if isinstance(event, AttemptFailed)} == {ENGINE}


def test_running_out_of_memory_is_not_survived(armed: Path) -> None:
    armed.write_text(json.dumps({"engine.step": {"action": "oom"}}))
    engine = make_engine()
    engine.start_local(make_task())
    with pytest.raises(MemoryError):
        engine.step()


@pytest.mark.parametrize("after", [0, 3])  # at the prompt, and between decode steps
def test_logits_that_are_not_numbers_end_one_request(armed: Path, after: int) -> None:
    armed.write_text(json.dumps({"engine.logits": {"action": "nan", "mark": MAGIC, "after": after}}))
    engine, mates = make_engine(), [make_task("a", num_prompt=3), make_task("b", num_prompt=12, n=2)]
    out = run_local(engine, [mates[0], make_task("magic", prompt=PROMPT, max_tokens=8), mates[1]])
    [failed] = out.events_of(AttemptFailed)
    assert isinstance(failed, AttemptFailed)
    assert (failed.request_id, failed.reason, failed.retryable) == ("magic", NUMERICS, False)
    assert len(out.tokens["magic", 0]) == after
    for task, child in ((mates[0], 0), (mates[1], 0), (mates[1], 1)):
        assert out.tokens[task.request_id, child] == reference_tokens(task, child)


def test_kv_that_is_not_numbers_fails_the_marked_request_alone_and_is_cleared(armed: Path) -> None:
    armed.write_text(json.dumps({"engine.kv": {"action": "nan", "mark": MAGIC}}))
    engine = make_engine(num_blocks=16)
    engine.start_prefill(make_task("mate", num_prompt=9))
    engine.start_prefill(make_task("magic", prompt=PROMPT))
    out = drive(engine)
    [failed] = out.events_of(AttemptFailed)
    assert isinstance(failed, AttemptFailed)
    assert (failed.request_id, failed.reason) == ("magic", NUMERICS)
    assert [sealed.key.request_id for sealed in out.sealed] == ["mate"]
    assert not torch.isnan(engine.pool.data).any()
    for result in out.sealed:
        engine.abort(result.key)
    assert_idle(engine)
