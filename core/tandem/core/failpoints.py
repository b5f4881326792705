"""Places in the code where a test may make something go wrong. Off, they cost one look at a global.

On only in a process that was started with ``TANDEM_TEST_FAILPOINTS=FOLDER`` and called `arm_failpoints`, which refuses
when the process can be reached from other machines or holds credentials. ``FOLDER/PROCESS.json`` says what happens
(an object: point → `FailpointSpec`); it is read again whenever it changes, so a running process can be told.
Whatever a point does is written to ``FOLDER/PROCESS.hits`` first, a JSON object a line: a test knows that it happened.

The points, each between two stages that a failure may fall between:

======================== =============================================================================================
``r.before_dispatch_decode`` router: prefill may have begun, `ReserveDecode` is about to be written (that stream waits)
``r.grant``              router, ``again`` only: a grant was written to the prefill worker
``r.abort``              router, ``again`` only: an abort was written to a worker
``r.granted``            router, ``again`` only: a worker's word that it granted was acted on
``p.before_prefill``     prefill worker: a task came, nothing of it is computed (its engine thread waits)
``p.chunk``              prefill worker: a step computed prompt tokens, their blocks were not offered yet
``p.after_seal``         prefill worker: a prompt is complete, its hand-over is not sealed
``p.before_chunk_send``  prefill worker: a chunk is due, its source is not pinned yet (that KV link waits)
``d.received_half``      decode worker: half of the chunks have landed (that KV link waits)
``d.before_commit``      decode worker: the KV is verified, the engine did not take it yet
``d.after_step``         decode worker: a step ended, its tokens are not published
``c.after_term``         controller: it has a term, no worker was claimed under it
``c.after_claim``        controller: it claimed every worker and knows their state, nothing is decided
``c.before_drain``       controller: a move is decided, nobody was told
``c.after_drain``        controller: a worker was told to drain
``c.before_switch``      controller: a worker is drained, it was not told to switch
``c.after_switch``       controller: a worker was told to switch
``engine.step``          either: a forward pass is about to run (marks: every token id in it)
``engine.kv``            either, ``nan`` only: rows with the mark get NaN into the newest token's KV
``engine.logits``        either, ``nan`` only: rows with the mark get NaN logits
======================== =============================================================================================
"""

import asyncio
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Final, Literal

import structlog
from pydantic import Field, TypeAdapter, ValidationError

from tandem.core.config.model import ConfigModel
from tandem.core.environment import read_environment
from tandem.core.errors import EnvironmentProblem

_log = structlog.get_logger(__name__)

VARIABLE: Final = "TANDEM_TEST_FAILPOINTS"
POINTS: Final = frozenset(
    {
        "r.before_dispatch_decode",
        "r.grant",
        "r.abort",
        "r.granted",
        "p.before_prefill",
        "p.chunk",
        "p.after_seal",
        "p.before_chunk_send",
        "d.received_half",
        "d.before_commit",
        "d.after_step",
        "c.after_term",
        "c.after_claim",
        "c.before_drain",
        "c.after_drain",
        "c.before_switch",
        "c.after_switch",
        "engine.step",
        "engine.kv",
        "engine.logits",
    }
)
EXIT_STATUS: Final = 86
_POLL_S: Final = 0.005
_MAX_PAUSE_S: Final = 120.0


class FailpointSpec(ConfigModel):
    """What one point does."""

    action: Literal["pause", "exit", "crash", "raise", "oom", "nan", "again"]
    """`exit` ends the process at once, `crash` by SIGSEGV; `oom` is MemoryError; `nan` spoils numbers there; `again`
    does a second time what was done there."""
    after: int = Field(default=0, ge=0)
    """How often the point is passed unharmed first."""
    times: int | None = Field(default=1, ge=1)
    """How often it acts; nothing = always."""
    seconds: float = Field(default=30.0, gt=0.0, le=_MAX_PAUSE_S)
    """pause: at most so long."""
    while_exists: Path | None = None
    """pause: only until this file is gone."""
    kind: Literal["runtime", "value", "os"] = "runtime"
    """raise: which error."""
    mark: int | None = None
    """Act only where this mark (a token id) is part of what is about to happen."""
    pid: int | None = None
    """Act only in this process: its successor of the same name is left alone."""


_SPECS: Final = TypeAdapter(dict[str, FailpointSpec])
_ERRORS: Final = {"runtime": RuntimeError, "value": ValueError, "os": OSError}
_NO_MARKS: Final[frozenset[int]] = frozenset()
_ONLY_ASKED: Final = frozenset({"nan", "again"})
_NEVER_READ: Final = (0, 0, 0)


class Failpoints:
    """The points of one process. Safe from any thread."""

    def __init__(self, folder: Path, process: str) -> None:
        self._file = folder / f"{process}.json"
        self._hits_file = folder / f"{process}.hits"
        self._lock = threading.Lock()
        self._read_version = _NEVER_READ
        self._specs: dict[str, FailpointSpec] = {}
        self._num_passed: Counter[str] = Counter()  # since the point's present spec was read
        self._num_acted: Counter[str] = Counter()

    def due(self, name: str, marks: Callable[[], Container[int]] | None) -> FailpointSpec | None:
        """Count one passage; return what to do now, after it was written down."""
        with self._lock:
            self._read_if_changed()
            spec = self._specs.get(name)
            if spec is None or (spec.pid is not None and spec.pid != os.getpid()):
                return None
            if spec.mark is not None and spec.mark not in (_NO_MARKS if marks is None else marks()):
                return None
            self._num_passed[name] += 1
            is_spent = spec.times is not None and self._num_acted[name] >= spec.times
            if self._num_passed[name] <= spec.after or is_spent:
                return None
            self._num_acted[name] += 1
            self.write_hit(name, spec, "begin")
            return spec

    def write_hit(self, name: str, spec: FailpointSpec, phase: str) -> None:
        """Append a line that says what the point does now."""
        line = {"pid": os.getpid(), "point": name, "action": spec.action, "phase": phase, "at_s": time.monotonic()}
        descriptor = os.open(self._hits_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, (json.dumps(line) + "\n").encode())
        finally:
            os.close(descriptor)

    def _read_if_changed(self) -> None:
        try:
            stat = self._file.stat()
            version = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if version == self._read_version:
                return
            specs = _SPECS.validate_json(self._file.read_bytes())
        except FileNotFoundError:
            version, specs = _NEVER_READ, {}
        except ValidationError as error:
            _log.error("failpoints_not_understood", file=str(self._file), problem=str(error))
            specs = {}
        for unknown in specs.keys() - POINTS:
            _log.error("failpoint_unknown", name=unknown, file=str(self._file))
        for name in self._specs.keys() | specs.keys():
            if specs.get(name) != self._specs.get(name):
                self._num_passed[name] = self._num_acted[name] = 0
        self._read_version, self._specs = version, specs


_armed: Failpoints | None = None


def arm_failpoints(process: str, *, exposed_by: Sequence[str]) -> bool:
    """Switch the points on if the environment asks for it; True if so. Called once, at the start of a process.

    ``exposed_by`` names the settings that make this process more than a test's: then EnvironmentProblem is raised.
    """
    global _armed  # noqa: PLW0603  # one per process, as the code that runs in it is
    folder = read_environment().test_failpoints
    if folder is None:
        return False
    if exposed_by:
        raise EnvironmentProblem(
            f"{VARIABLE} is set, and {process} is no test process: {', '.join(exposed_by)}",
            remedy=f"unset {VARIABLE}; failpoints are for processes on loopback without credentials",
        )
    if not folder.is_dir():
        raise EnvironmentProblem(f"{VARIABLE}={folder} is not a folder", remedy=f"make it, or unset {VARIABLE}")
    _log.warning("test_failpoints_armed", process=process, folder=str(folder))
    _armed = Failpoints(folder, process)
    return True


def disarm_failpoints() -> None:
    """Switch every point off."""
    global _armed  # noqa: PLW0603
    _armed = None


def failpoint(name: str, marks: Callable[[], Container[int]] | None = None) -> int | None:
    """Pass a point: return at once, wait, raise or not return at all.

    For ``nan`` return the mark whose rows the caller has to spoil; in every other case None.
    """
    if _armed is None:
        return None
    spec = _armed.due(name, marks)
    if spec is None:
        return None
    if spec.action in _ONLY_ASKED:
        return spec.mark if spec.action == "nan" else None
    if spec.action == "pause":
        until_s = time.monotonic() + spec.seconds
        while _is_paused(spec, until_s):
            time.sleep(_POLL_S)
        _armed.write_hit(name, spec, "end")
        return None
    _end_here(name, spec)
    return None


async def failpoint_in_loop(name: str) -> None:
    """Pass a point on an event loop: a pause lets the loop's other tasks go on."""
    if _armed is None:
        return
    armed, spec = _armed, _armed.due(name, None)
    if spec is None or spec.action in _ONLY_ASKED:
        return
    if spec.action == "pause":
        until_s = time.monotonic() + spec.seconds
        while _is_paused(spec, until_s):  # noqa: ASYNC110  # a file's absence has no event
            await asyncio.sleep(_POLL_S)
        armed.write_hit(name, spec, "end")
        return
    _end_here(name, spec)


def failpoint_again(name: str) -> bool:
    """Pass a point behind something that was done: True = do it once more."""
    spec = None if _armed is None else _armed.due(name, None)
    return spec is not None and spec.action == "again"


def _is_paused(spec: FailpointSpec, until_s: float) -> bool:
    return time.monotonic() < until_s and (spec.while_exists is None or spec.while_exists.exists())


def _end_here(name: str, spec: FailpointSpec) -> None:
    match spec.action:
        case "exit":
            os._exit(EXIT_STATUS)
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "oom":
            raise MemoryError(f"failpoint {name}")
        case _:
            raise _ERRORS[spec.kind](f"failpoint {name}")
