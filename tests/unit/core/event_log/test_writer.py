"""The event log's writer: order, losses told in their place, what survives a kill, and a disk that fails."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tandem.core.blocks import BlockRef
from tandem.core.clock import MonotonicClock
from tandem.core.errors import EnvironmentProblem
from tandem.core.event_log import EventLog, open_event_log
from tandem.core.event_log.events import (
    BlocksFreed,
    Event,
    LogClosed,
    LogOpened,
    ProcessPaused,
    RecordsLost,
    RequestEnded,
    TokensForwarded,
)
from tandem.core.event_log.record import ProcessLife, Record, decode_line, file_name

LIFE = ProcessLife("decode-0", 2**63 - 1)


def _token(position: int, *, child: int = 0) -> TokensForwarded:
    return TokensForwarded(request="r", child=child, position=position, count=1)


def _records(log: EventLog) -> list[Record]:
    return [decode_line(line) for line in log.path.read_bytes().splitlines()]


def _events(log: EventLog) -> list[Event]:
    return [record.event for record in _records(log)]


def _wait(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, "it did not come"
        time.sleep(0.002)


def test_lines_are_in_order_between_opened_and_closed(tmp_path: Path) -> None:
    log = open_event_log(tmp_path / "new" / "folder", LIFE)
    for position in range(2000):
        log.record(_token(position))
    log.close()
    log.close()
    records = _records(log)
    opened, *tokens, closed = (record.event for record in records)
    assert isinstance(opened, LogOpened)
    assert opened.pid == os.getpid()
    assert tokens == [_token(position) for position in range(2000)]
    assert closed == LogClosed()
    assert {(record.process, record.epoch) for record in records} == {(LIFE.name, LIFE.epoch)}
    times = [record.t for record in records]
    assert times == sorted(times)
    assert log.path.name == f"decode-0-{2**63 - 1}.jsonl"


def test_every_line_of_many_threads_is_whole_and_each_thread_is_in_order(tmp_path: Path) -> None:
    log = open_event_log(tmp_path, LIFE)

    def write(child: int) -> None:
        for position in range(500):
            log.record(_token(position, child=child))

    threads = [threading.Thread(target=write, args=(child,)) for child in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    tokens = [event for event in _events(log) if isinstance(event, TokensForwarded)]
    for child in range(8):
        assert [event.position for event in tokens if event.child == child] == list(range(500))


def test_a_full_buffer_loses_events_and_says_so_where_the_first_one_is_missing(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "log", LIFE, max_pending=10, flush_period_s=3600.0)
    for position in range(25):
        log.record(_token(position))
    assert log.num_lost == 16  # ten places, the first of them taken by the opening record
    log.close()
    events = _events(log)
    assert events[1:10] == [_token(position) for position in range(9)]
    assert events[10] == RecordsLost(count=16)
    assert events[11] == LogClosed()


def test_after_a_loss_the_log_goes_on_and_a_second_loss_is_told_apart(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "log", LIFE, max_pending=4, flush_period_s=3600.0)
    for position in range(6):
        log.record(_token(position))
    log.flush()
    _wait(lambda: b"records_lost" in log.path.read_bytes())
    for position in range(10, 17):
        log.record(_token(position))
    log.close()
    events = _events(log)
    assert events[1:5] == [_token(0), _token(1), _token(2), RecordsLost(count=3)]
    assert events[5:] == [_token(10), _token(11), _token(12), _token(13), RecordsLost(count=3), LogClosed()]


def test_events_reach_the_file_by_themselves_and_urgent_ones_at_once(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "slow", LIFE, flush_period_s=3600.0)
    log.record(_token(0))
    log.record(RequestEnded(request="r", outcome="ok", reason="", num_output_tokens=1))
    _wait(lambda: b"request_ended" in log.path.read_bytes())
    log.close()
    log = EventLog(tmp_path / "usual", LIFE)
    log.record(_token(0))
    began_s = time.monotonic()
    _wait(lambda: b"tokens_forwarded" in log.path.read_bytes())
    assert time.monotonic() - began_s < 2.0  # 20 ms on an idle machine
    log.close()


def test_a_kill_takes_nothing_that_was_flushed(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        from tandem.core.event_log import open_event_log
        from tandem.core.event_log.events import TokensForwarded
        from tandem.core.event_log.record import ProcessLife

        log = open_event_log(Path(sys.argv[1]), ProcessLife("p", 1))
        for position in range(1000):
            log.record(TokensForwarded(request="r", child=0, position=position, count=1))
        time.sleep(0.5)
        print("flushed", flush=True)
        position = 1000
        while True:
            log.record(TokensForwarded(request="r", child=0, position=position, count=1))
            position += 1
            time.sleep(0.0001)
        """
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
    lines = (tmp_path / file_name(ProcessLife("p", 1))).read_bytes().splitlines(keepends=True)
    whole = [decode_line(line).event for line in lines if line.endswith(b"\n")]
    assert len(lines) - len(whole) <= 1
    positions = [event.position for event in whole if isinstance(event, TokensForwarded)]
    assert positions == list(range(len(positions)))
    assert len(positions) >= 1000
    assert not any(isinstance(event, LogClosed) for event in whole)


def test_a_stopped_process_says_for_how_long_it_stood_still(tmp_path: Path) -> None:
    class Jumping(MonotonicClock):
        offset_s = 0.0

        def now_s(self) -> float:
            return super().now_s() + self.offset_s

    clock = Jumping()
    log = EventLog(tmp_path / "log", LIFE, clock=clock)
    time.sleep(0.1)
    clock.offset_s = 7.0
    _wait(lambda: b"process_paused" in log.path.read_bytes())
    log.close()
    pauses = [event.seconds for event in _events(log) if isinstance(event, ProcessPaused)]
    assert len(pauses) == 1
    assert pauses[0] == pytest.approx(7.0, abs=0.5)


def test_a_full_disk_stops_the_log_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = open_event_log(tmp_path, LIFE)
    _wait(log.path.read_bytes)

    def full(descriptor: int, data: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        log.record(_token(0))
        log.flush()
        _wait(lambda: log._is_broken)
    log.record(_token(1))
    log.close()
    assert [type(event) for event in _events(log)] == [LogOpened]


def test_two_logs_of_one_life_and_folders_that_can_t_be_made_are_refused(tmp_path: Path) -> None:
    log = open_event_log(tmp_path, LIFE)
    with pytest.raises(EnvironmentProblem, match="event log can't be written"):
        open_event_log(tmp_path, LIFE)
    log.close()
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentProblem, match="event_log"):
        open_event_log(tmp_path / "file" / "folder", LIFE)


def test_names_of_processes_make_file_names_and_json_whatever_they_hold(tmp_path: Path) -> None:
    life = ProcessLife('../a "b"\n/ü', 5)
    log = open_event_log(tmp_path, life)
    log.record(BlocksFreed(blocks=(BlockRef(1, 2),)))
    log.close()
    assert log.path.parent == tmp_path
    assert [record.process for record in _records(log)] == [life.name] * 3
