"""How large processes are: descriptors, threads, tasks, shared memory. Reads /proc; changes nothing."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_SHARED_MEMORY = Path("/dev/shm")
_OURS = "tandem"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSize:
    """One process at one moment."""

    num_fds: int
    num_threads: int
    num_tasks: int  # of its event loop, as it says itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """A cluster that has served and is idle. By name, not pid: a restarted process is compared with its former life."""

    processes: Mapping[str, ProcessSize] = field(default_factory=dict)
    shared_memory: frozenset[str] = frozenset()


def measure(pid: int, *, num_tasks: int) -> ProcessSize:
    """Count a process's descriptors and threads. Raises OSError for one that is gone."""
    process = Path("/proc") / str(pid)
    return ProcessSize(
        num_fds=len(os.listdir(process / "fd")), num_threads=len(os.listdir(process / "task")), num_tasks=num_tasks
    )


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in RAM. Raises OSError for one that is gone."""
    num_pages = int((Path("/proc") / str(pid) / "statm").read_text(encoding="ascii").split()[1])
    return num_pages * os.sysconf("SC_PAGE_SIZE")


def shared_memory_files() -> frozenset[str]:
    """Names in /dev/shm that are ours. There should never be one: the rings have no name."""
    try:
        return frozenset(name for name in os.listdir(_SHARED_MEMORY) if _OURS in name)
    except FileNotFoundError:
        return frozenset()
