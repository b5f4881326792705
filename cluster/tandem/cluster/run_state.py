"""What a running cluster leaves on disk so that other commands find it: one small JSON file, for its owner only.

A file may outlive its cluster (power cut, SIGKILL). It counts only while its process lives *and* started at the time
the file names, since process ids are used again.
"""

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import psutil
import pydantic

from tandem.core.config.model import ConfigModel
from tandem.core.errors import EnvironmentProblem

_START_TOLERANCE_S = 2.0  # the system clock may be set meanwhile


class RunState(ConfigModel):
    """One running cluster."""

    name: str
    """Name of the cluster."""
    pid: int
    """Process id of its supervisor."""
    started_s: float
    """When that process started, in seconds since 1970, as the system tells it."""
    runtime: str
    """`local` or `ray`."""
    model: str
    """Name under which the model is served."""
    public_address: str
    """Where clients call."""
    internal_address: str
    """Where operators ask for the state."""
    secured: bool
    """Whether the public port speaks TLS."""
    internal_secured: bool
    """Whether the internal port speaks TLS."""
    log_folder: Path
    """Where every process writes its log."""
    controlled: bool = False
    """Whether a controller runs beside the router."""


class RunStates:
    """The folder of run states of one user."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def claimed(self, name: str) -> Iterator[None]:
        """Hold the name for the length of the block: the system gives it back when this process dies.

        Raises EnvironmentProblem when a cluster of this name runs or starts, or when the folder is not ours.
        """
        self._make_folder()
        path = self._folder / f"{name}.lock"
        with self._locked(path, name):
            try:
                yield
            finally:
                path.unlink(missing_ok=True)  # while it is still locked: see `_locked`

    def _locked(self, path: Path, name: str) -> IO[str]:
        """Return the lock file, open and locked. Raises EnvironmentProblem when another process has it."""
        while True:
            lock = path.open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.exists() and os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                    return lock
                lock.close()  # its holder took the file away as it ended: a lock on that one guards nothing
            except BlockingIOError:
                lock.close()
                running = self.find(name)
                where = f"process {running.pid}, {running.public_address}" if running else "it is just starting"
                raise EnvironmentProblem(
                    f"a cluster named {name!r} runs already ({where})",
                    remedy=f"stop it with `tandem down --name {name}`, or give this one another metadata.name",
                ) from None

    def log_folder(self, name: str) -> Path:
        """Return where the processes of a cluster write their logs."""
        return self._folder / f"{name}.logs"

    def write(self, state: RunState) -> None:
        """Publish a cluster; the file appears whole."""
        self._make_folder()
        temporary = self._folder / f".{state.name}.{os.getpid()}"
        with suppress(FileNotFoundError):
            temporary.unlink()
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(state.model_dump_json(indent=2) + "\n")
        temporary.replace(self._path(state.name))

    def remove(self, name: str, pid: int) -> None:
        """Withdraw a cluster, if the file is still of that process."""
        state = self._read(self._path(name))
        if state is not None and state.pid == pid:
            with suppress(FileNotFoundError):
                self._path(name).unlink()

    def find(self, name: str) -> RunState | None:
        """Return the running cluster of this name; a stale file is removed."""
        path = self._path(name)
        state = self._read(path)
        if state is None or not is_process(state.pid, state.started_s):
            with suppress(OSError):
                path.unlink()
            return None
        return state

    def running(self) -> tuple[RunState, ...]:
        """Return every running cluster, by name."""
        names = sorted(path.stem for path in self._folder.glob("*.json"))
        return tuple(state for state in map(self.find, names) if state is not None)

    def pick(self, name: str | None) -> RunState:
        """Return the cluster named, or the only one. Raises EnvironmentProblem when that is not one cluster."""
        found = self.running()
        if name is not None:
            found = tuple(state for state in found if state.name == name)
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(state.name for state in found)
            raise EnvironmentProblem(f"several clusters run here: {names}", remedy="choose one with --name")
        which = "no cluster runs here" if name is None else f"no cluster named {name!r} runs here"
        raise EnvironmentProblem(
            which, remedy="start one with `tandem up -f cluster.yaml` or `tandem demo`, or give an --address"
        )

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _read(self, path: Path) -> RunState | None:
        try:
            return RunState.model_validate_json(path.read_bytes())
        except (OSError, pydantic.ValidationError):
            return None

    def _make_folder(self) -> None:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = self._folder.lstat()
        except OSError as error:
            raise EnvironmentProblem(
                f"{self._folder} can't be made: {error.strerror}", remedy="set XDG_RUNTIME_DIR to a folder of yours"
            ) from error
        # In a shared temporary folder somebody else may have been first.
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            raise EnvironmentProblem(
                f"{self._folder} belongs to somebody else", remedy="set XDG_RUNTIME_DIR to a folder of yours"
            )
        if stat.S_IMODE(status.st_mode) & 0o077:
            self._folder.chmod(0o700)


def is_process(pid: int, started_s: float) -> bool:
    """Tell whether process ``pid`` lives and is the one that started at ``started_s``."""
    try:
        process = psutil.Process(pid)
        alive: bool = process.status() != psutil.STATUS_ZOMBIE
        return alive and abs(process.create_time() - started_s) <= _START_TOLERANCE_S
    except psutil.Error:
        return False


def own_start_s() -> float:
    """Return when this process started, in seconds since 1970."""
    return float(psutil.Process().create_time())
