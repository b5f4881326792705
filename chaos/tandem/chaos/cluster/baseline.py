"""How large processes are: descriptors, threads, tasks, shared memory. Reads /proc; changes nothing."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_SHARED_MEMORY = Path("/dev/shm")
_OURS = "tandem"
_GRPC_POOL = ("event_engine", "grpc_", "lifeguard")
"""Names of the threads that gRPC keeps for all of a process: it adds some while work waits, and ends them later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSize:
    """One process at one moment."""

    num_fds: int
    num_threads: int  # without gRPC's own pool
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
        num_fds=len(os.listdir(process / "fd")), num_threads=_count_threads(process / "task"), num_tasks=num_tasks
    )


def _count_threads(folder: Path) -> int:
    names = []
    for thread in os.listdir(folder):
        try:
            names.append((folder / thread / "comm").read_text(encoding="utf-8"))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended since it was listed
    return sum(not name.startswith(_GRPC_POOL) for name in names)


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
