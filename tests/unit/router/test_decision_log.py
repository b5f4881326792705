"""The decision log: what it keeps and forgets, what its files hold, and that nothing ever waits for them."""

import json
import os
import threading
import time
from pathlib import Path

import msgspec
import pytest

from tandem.core.decisions import ControllerRound, Decision, DecisionFilter, WorkerJudged
from tandem.core.errors import ConfigError, EnvironmentProblem
from tandem.router.decisions.config import DecisionsSection
from tandem.router.decisions.file import DecisionFile
from tandem.router.decisions.log import DecisionLog, open_decision_log
from tandem.router.decisions.pseudonym import Pseudonyms
from tests.unit.router.builders import SteppedClock

EVERYTHING = DecisionFilter(limit=1000)
JUDGED = WorkerJudged(worker="decode-0", worker_epoch=1, health="dead")
ROUND = ControllerRound(term=1, policy="p", verdict="hold", current_prefill=1, current_decode=1)


def make_log(clock: SteppedClock | None = None, **config: float) -> DecisionLog:
    section = DecisionsSection.model_validate(config)
    return DecisionLog("router-0", clock=clock or SteppedClock(), config=section, unix_s=lambda: 1000.0)


def numbers(log: DecisionLog, wanted: DecisionFilter = EVERYTHING) -> list[int]:
    return [decision.sequence for decision in log.page(wanted).decisions]


def test_it_finds_by_request_kind_tenant_and_time() -> None:
    clock = SteppedClock()
    log = make_log(clock)
    log.note(JUDGED, "one")
    log.note(ROUND, "two", request_id="a", tenant="acme", priority="batch")
    clock.time_s += 10.0
    log.note(JUDGED, "three", request_id="b", tenant="umbrella")
    assert numbers(log) == [1, 2, 3]
    assert numbers(log, DecisionFilter(kinds=("worker",))) == [1, 3]
    assert numbers(log, DecisionFilter(request_id="a")) == [2]
    assert numbers(log, DecisionFilter(since_unix_s=1005.0)) == [3]
    assert numbers(log, DecisionFilter(limit=2)) == [2, 3]
    assert numbers(log, DecisionFilter(tenant="acme")) == [2]
    assert numbers(log, DecisionFilter(tenant=log.pseudonyms.of("acme"))) == [2]
    (second,) = log.of_request("a").decisions
    assert (second.source, second.reason, second.unix_s, second.priority) == ("router-0", "two", 1000.0, "batch")
    assert log.of_request("c").decisions == ()


def test_the_oldest_are_forgotten_by_count_and_by_age_with_their_requests() -> None:
    clock = SteppedClock()
    log = make_log(clock, max_records=3, max_age_s=60.0)
    for name in ("a", "a", "b", "c", "d"):
        log.note(JUDGED, "", request_id=name)
    assert numbers(log) == [3, 4, 5]
    assert log.page(EVERYTHING).num_forgotten == 2
    assert log.of_request("a").decisions == ()
    clock.time_s += 61.0
    log.note(JUDGED, "", request_id="e")
    assert numbers(log) == [6]
    assert log._ring.num_requests == 1


def test_who_follows_gets_each_once_and_in_order() -> None:
    log = make_log()
    for _ in range(5):
        log.note(JUDGED, "", request_id="a")
    assert [one.sequence for one in log.page_after(3, DecisionFilter()).decisions] == [4, 5]
    assert log.page_after(5, DecisionFilter()).decisions == ()
    assert log.page_after(0, DecisionFilter(kinds=("controller",))).decisions == ()


def test_a_tenant_is_a_keyed_hash_and_its_name_stands_nowhere(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("0123456789abcdef-secret\n")
    config = DecisionsSection(folder=tmp_path / "log", tenant_key_file=tmp_path / "key")
    found = set()
    for router in ("router-0", "router-1"):
        log = open_decision_log(config, router_id=router, clock=SteppedClock())
        assert log is not None
        log.note(JUDGED, "", request_id="a", tenant="acme-corporation")
        found.add(log.page(EVERYTHING).decisions[0].tenant_hash)
        log.close()
        assert "acme" not in (tmp_path / "log" / f"decisions-{router}.jsonl").read_text()
    assert len(found) == 1  # one key, one pseudonym
    assert Pseudonyms().of("acme") != Pseudonyms().of("acme")  # no key: nobody can try names
    assert Pseudonyms(b"k").of("acme") != Pseudonyms(b"k").of("acmf")


def test_what_is_configured_wrongly_is_named(tmp_path: Path) -> None:
    clock = SteppedClock()
    assert open_decision_log(DecisionsSection(max_records=0), router_id="r", clock=clock) is None
    (tmp_path / "short").write_text("secret")
    with pytest.raises(ConfigError, match="at least 16 bytes"):
        open_decision_log(DecisionsSection(tenant_key_file=tmp_path / "short"), router_id="r", clock=clock)
    with pytest.raises(EnvironmentProblem, match="tenant_key_file"):
        open_decision_log(DecisionsSection(tenant_key_file=tmp_path / "none"), router_id="r", clock=clock)
    with pytest.raises(EnvironmentProblem, match="folder"):
        open_decision_log(DecisionsSection(folder=tmp_path / "short"), router_id="r", clock=clock)


def test_a_controllers_rounds_get_numbers_and_keep_their_times() -> None:
    log = make_log()
    log.note(JUDGED, "mine")
    told = Decision(sequence=77, unix_s=500.0, source="forged", reason="why", detail=ROUND)
    log.take("controller-1", [told, told])
    assert numbers(log) == [1, 2, 3]
    last = log.page(DecisionFilter(kinds=("controller",))).decisions[-1]
    assert (last.source, last.unix_s, last.reason, last.detail) == ("controller-1", 500.0, "why", ROUND)
    log.take("controller-1", [msgspec.structs.replace(told, unix_s=1e12)])
    assert numbers(log) == [1, 2, 3, 4]  # a wrong clock makes nobody forget


# --- files ---------------------------------------------------------------------------------------------------------


def record(number: int, *, reason: str = "why") -> Decision:
    return Decision(sequence=number, unix_s=1.0, source="r", reason=reason, detail=JUDGED)


def lines(path: Path) -> list[int]:
    return [json.loads(line)["sequence"] for line in path.read_text().splitlines()]


def test_a_file_holds_every_decision_as_it_was(tmp_path: Path) -> None:
    file = DecisionFile(tmp_path, "d", max_bytes=1 << 20, max_files=2)
    for number in range(200):
        file.put(record(number))
    file.close()
    file.close()
    assert lines(tmp_path / "d.jsonl") == list(range(200))
    assert msgspec.json.decode((tmp_path / "d.jsonl").read_bytes().splitlines()[7], type=Decision) == record(7)
    assert (tmp_path / "d.jsonl").stat().st_mode & 0o777 == 0o600


def test_full_files_are_put_aside_and_the_oldest_removed(tmp_path: Path) -> None:
    file = DecisionFile(tmp_path, "d", max_bytes=100_000, max_files=3)
    for number in range(600):
        file.put(record(number, reason="x" * 1000))
    file.close()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["d.1.jsonl", "d.2.jsonl", "d.jsonl"]
    kept = [*lines(tmp_path / "d.2.jsonl"), *lines(tmp_path / "d.1.jsonl"), *lines(tmp_path / "d.jsonl")]
    assert kept == list(range(kept[0], 600))
    assert kept[0] > 0
    assert all(path.stat().st_size <= 100_000 for path in tmp_path.iterdir())


def test_a_disk_that_hangs_holds_up_nobody_and_what_is_lost_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()
    stuck = threading.Event()
    write = os.write

    def hang(descriptor: int, data: bytes) -> int:
        stuck.set()
        goes_on.wait(20.0)
        return write(descriptor, data)

    file = DecisionFile(tmp_path, "d", max_bytes=1 << 20, max_files=2, max_queued=100)
    monkeypatch.setattr(os, "write", hang)
    try:
        file.put(record(0))
        assert stuck.wait(10.0)
        begun_s = time.perf_counter()
        for number in range(1, 1001):
            file.put(record(number))
        took_s = time.perf_counter() - begun_s
    finally:
        goes_on.set()
    file.close()
    assert took_s < 0.5
    assert file.num_dropped == 900
    assert lines(tmp_path / "d.jsonl") == list(range(101))


def test_a_disk_that_was_full_for_a_while_costs_those_lines_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    file = DecisionFile(tmp_path, "d", max_bytes=1 << 20, max_files=2)
    is_full = threading.Event()

    def half_a_line(descriptor: int, data: bytes) -> int:
        if is_full.is_set():
            raise OSError(28, "No space left on device")
        is_full.set()
        return write(descriptor, bytes(data)[:10])

    monkeypatch.setattr(os, "write", half_a_line)
    file.put(record(0))
    until_s = time.monotonic() + 10.0
    while not file.num_dropped and time.monotonic() < until_s:
        time.sleep(0.01)
    monkeypatch.setattr(os, "write", write)
    file.put(record(1))
    file.close()
    assert file.num_dropped == 1
    torn, whole = (tmp_path / "d.jsonl").read_text().splitlines()
    assert len(torn) == 10
    assert json.loads(whole)["sequence"] == 1
