"""Log lines on a full disk, into a closed pipe, in a flood."""

import errno
import io
import os

import pytest

from tandem.core.log_file import DroppingLogFile


class _Disk(io.StringIO):
    """A text file whose disk may be full."""

    is_full = False

    def write(self, text: str, /) -> int:
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)


def _print(file: DroppingLogFile, line: str) -> None:
    print(line, file=file, flush=True)  # as structlog does


def test_lines_go_through_whole() -> None:
    disk = _Disk()
    file = DroppingLogFile(disk)
    _print(file, "one")
    _print(file, "two")
    assert disk.getvalue() == "one\ntwo\n"


def test_a_full_disk_costs_lines_and_nothing_else() -> None:
    disk = _Disk()
    file = DroppingLogFile(disk)
    _print(file, "before")
    disk.is_full = True
    for number in range(5):
        _print(file, f"lost {number}")
    disk.is_full = False
    _print(file, "after")
    _print(file, "later")
    assert disk.getvalue() == "before\n(5 log lines were dropped before this one)\nafter\nlater\n"
    assert file.num_dropped == 5


def test_a_real_full_device_and_a_closed_file() -> None:
    with open("/dev/full", "w") as full:
        file = DroppingLogFile(full)
        _print(file, "lost")
        assert file.num_dropped == 1
        with pytest.raises(OSError, match="No space left"):
            full.write("x")
            full.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())  # so that closing it finds room
    _print(file, "lost as well")
    assert file.num_dropped == 2


def test_a_flood_is_cut_and_what_comes_later_is_not() -> None:
    disk, time_s = _Disk(), [0.0]
    file = DroppingLogFile(disk, now_s=lambda: time_s[0])
    for _ in range(10_000):
        _print(file, "again")
    assert disk.getvalue().count("again") == 2000
    time_s[0] += 0.5
    for _ in range(200):
        _print(file, "again")
    assert disk.getvalue().count("again") == 2100
    assert "(8000 log lines were dropped before this one)" in disk.getvalue()
