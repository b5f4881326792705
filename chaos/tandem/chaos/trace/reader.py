"""Reads event logs and feeds them to the checker, merged by time where the clocks are one machine's."""

import heapq
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from tandem.chaos.trace.checker import Checker
from tandem.chaos.trace.report import Report
from tandem.chaos.trace.roles import Excused, never_excused
from tandem.chaos.trace.seen import Seen
from tandem.core.errors import EnvironmentProblem
from tandem.core.event_log.events import LogOpened
from tandem.core.event_log.record import LOG_VERSION, ProcessLife, decode_line


@dataclass(frozen=True, slots=True)
class _Broken:
    """A line that can't be read although others follow it: the log is not what its process wrote."""

    process: ProcessLife
    at_s: float
    problem: str


def check(paths: Sequence[Path], *, check_serving: bool = True, excused: Excused = never_excused) -> Report:
    """Judge the logs in ``paths`` (files, or folders of ``*.jsonl``). Raises EnvironmentProblem without any log.

    A last line that was cut off by a kill is left out. I7 is judged only if all logs are of one boot of one machine;
    ``excused`` says when a role may stand empty.
    """
    files = _files(paths)
    with ExitStack() as stack:
        streams = [(path, stack.enter_context(path.open("rb"))) for path in files]
        host_of = {path: _host(path, stream) for path, stream in streams}
        hosts = set(host_of.values()) - {None}
        checker = Checker(check_serving=check_serving and len(hosts) <= 1, excused=excused)
        for path in (path for path, host in host_of.items() if host is None):
            checker.empty(ProcessLife(path.stem, 0))
        for item in heapq.merge(*(_items(path, stream) for path, stream in streams), key=lambda item: item.at_s):
            if isinstance(item, _Broken):
                checker.give_up(item.process, item.problem)
            else:
                checker.feed(item.process, item.event, at_s=item.at_s, file=item.file, line=item.line)
        return checker.finish()


def _files(paths: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        files += sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    missing = [str(path) for path in files if not path.is_file()]
    if missing or not files:
        raise EnvironmentProblem(
            f"no event log at {', '.join(missing or map(str, paths))}",
            remedy="name *.jsonl files, or the folder that event_log was set to",
        )
    return files


def _host(path: Path, stream: BinaryIO) -> str | None:
    """Return the machine's boot of a log, from its first line; None for a log that holds no event.

    The stream is at its beginning again then.
    """
    first = stream.readline()
    stream.seek(0)
    try:
        event = decode_line(first).event
    except msgspec.MsgspecError:
        return None
    if not isinstance(event, LogOpened):
        return ""
    if event.version != LOG_VERSION:
        raise EnvironmentProblem(
            f"{path} is an event log of version {event.version}, this checker reads {LOG_VERSION}",
            remedy="check it with the code that wrote it",
        )
    return event.host


def _items(path: Path, stream: BinaryIO) -> Iterator[Seen | _Broken]:
    life, at_s = ProcessLife(path.stem, 0), 0.0
    held: _Broken | None = None
    for number, line in enumerate(stream, start=1):
        if held is not None:
            yield held
            return
        try:
            record = decode_line(line)
        except msgspec.MsgspecError as error:
            held = _Broken(
                life, at_s, f"{path.name}:{number} can't be read ({error}); nothing from there on was judged"
            )
            if line.endswith(b"\n"):
                yield held  # not a line that a kill cut off
                return
            continue
        life, at_s = ProcessLife(record.process, record.epoch), record.t
        yield Seen(life, at_s, record.event, path.name, number)
