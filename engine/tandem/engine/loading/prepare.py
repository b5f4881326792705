"""Prepares a model once: any source becomes a folder of the cache that the router and the workers read.

::

    <cache>/models/
        <name>-<digest>/            prepared folders; they appear whole, by one rename
        .sources/<fingerprint>.json which folder a source was prepared into
        .locks/<fingerprint>.lock   held (flock) by the process that converts; the system frees it when that dies
        .work/<fingerprint>/        conversion under way, or left by a crash and removed by the next holder of the lock

A prepared source is found again without loading torch.
"""

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from tandem.core.clock import Clock, MonotonicClock
from tandem.core.errors import ModelError
from tandem.core.prepared_model import MANIFEST_NAME, PreparedModel, read_prepared_model
from tandem.engine.loading.progress import Progress, ProgressSink
from tandem.engine.loading.sources import Source, model_name, resolve_source

_LOCK_TIMEOUT_S = 3600.0
_POLL_S = 0.2


def prepare_model(
    source: str,
    *,
    cache_folder: Path,
    dtype: str,
    progress: ProgressSink,
    name: str | None = None,
    clock: Clock | None = None,
) -> PreparedModel:
    """Return the prepared folder of a source, converting it if that was not done before.

    ``source``: a model folder, a prepared folder, a .gguf file, a hub id, or ``builtin:smollm2``. ``dtype``: float32,
    bfloat16, float16, or auto for the source's own. Raises ModelError with a remedy; a failure leaves nothing behind.
    """
    clock = clock or MonotonicClock()
    track = Progress(progress, clock)
    resolved = resolve_source(source)
    if resolved.path is not None and (resolved.path / MANIFEST_NAME).is_file():
        return _already_prepared(resolved.path, dtype)
    chosen = model_name(name) if name else resolved.name
    store = _Store(cache_folder / "models", resolved.fingerprint(dtype, chosen))
    found = store.find()
    if found is not None:
        return found
    with store.locked(track, clock):
        found = store.find()
        if found is not None:
            return found
        return _convert(resolved, store, dtype=dtype, name=chosen, track=track, clock=clock)


def find_prepared(source: str, *, cache_folder: Path, dtype: str, name: str | None = None) -> PreparedModel | None:
    """Return the prepared folder of a source if it was converted before; never converts, never loads torch.

    Raises ModelError for a source that names nothing.
    """
    resolved = resolve_source(source)
    if resolved.path is not None and (resolved.path / MANIFEST_NAME).is_file():
        return _already_prepared(resolved.path, dtype)
    chosen = model_name(name) if name else resolved.name
    return _Store(cache_folder / "models", resolved.fingerprint(dtype, chosen)).find()


def _already_prepared(folder: Path, dtype: str) -> PreparedModel:
    model = read_prepared_model(folder)
    if dtype not in ("auto", model.dtype):
        raise ModelError(
            f"{folder} was prepared as {model.dtype}, {dtype} is wanted",
            remedy=f"set dtype to {model.dtype}, or give the original model as the source",
        )
    return model


def _convert(source: Source, store: "_Store", *, dtype: str, name: str, track: Progress, clock: Clock) -> PreparedModel:
    # These load torch and the hub's client, which a model that is prepared already does not need.
    from tandem.engine.loading.convert import convert  # noqa: PLC0415

    origin = source.path
    if origin is None:
        from tandem.engine.loading.hub import download  # noqa: PLC0415

        track.at(f"downloading {source.given}")
        origin = download(source.given)
    with store.work_folder() as work:
        model = convert(source, origin, work, dtype=dtype, name=name, progress=track)
        prepared = store.adopt(model, track, clock)
    track.at("the model is prepared", 1.0)
    return prepared


class _Store:
    """The cache folder, seen by one source."""

    def __init__(self, root: Path, fingerprint: str) -> None:
        self._root = root
        self._pointer = root / ".sources" / f"{fingerprint}.json"
        self._lock = root / ".locks" / f"{fingerprint}.lock"
        self._work = root / ".work" / fingerprint

    def find(self) -> PreparedModel | None:
        """Return what this source was prepared into; None when it was not, or when that is broken now."""
        try:
            folder = json.loads(self._pointer.read_text(encoding="utf-8"))["folder"]
            return read_prepared_model(self._root / Path(folder).name)
        except (OSError, ValueError, KeyError, TypeError, ModelError):
            return None

    @contextlib.contextmanager
    def locked(self, track: Progress, clock: Clock) -> Iterator[None]:
        """Hold the source's lock, so that it is converted once. Raises ModelError when the cache can't be written."""
        try:
            for folder in (self._lock.parent, self._pointer.parent, self._work.parent):
                folder.mkdir(parents=True, exist_ok=True)
            file = self._lock.open("w")
        except OSError as error:
            raise ModelError(
                f"the model cache {self._root} can't be written: {error}",
                remedy="set XDG_CACHE_HOME to a folder you may write",
            ) from error
        with file:
            _acquire(file, self._lock, track, clock)
            yield

    @contextlib.contextmanager
    def work_folder(self) -> Iterator[Path]:
        """Make an empty folder to build in; it is gone afterwards, whatever happens."""
        shutil.rmtree(self._work, ignore_errors=True)
        self._work.mkdir(parents=True)
        try:
            yield self._work
        except OSError as error:
            raise ModelError(
                f"preparing the model in {self._root} failed: {error}", remedy="free some disk space and try again"
            ) from error
        finally:
            shutil.rmtree(self._work, ignore_errors=True)

    def adopt(self, model: PreparedModel, track: Progress, clock: Clock) -> PreparedModel:
        """Move a finished folder to its place and remember it for this source."""
        folder = self._root / f"{model.name}-{model.digest[:16]}"
        # Two sources of equal content end in one folder: their holders take turns here.
        lock = self._lock.with_name("adopt.lock")
        with lock.open("w") as file:
            _acquire(file, lock, track, clock)
            try:
                prepared = read_prepared_model(folder)
            except ModelError:
                shutil.rmtree(folder, ignore_errors=True)
                model.folder.rename(folder)
                prepared = read_prepared_model(folder)
        temporary = self._pointer.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps({"folder": folder.name}), encoding="utf-8")
        temporary.replace(self._pointer)
        return prepared


def _acquire(file: TextIO, path: Path, track: Progress, clock: Clock) -> None:
    """Wait for the lock on an open file; it is released when the file is closed. Raises ModelError after an hour."""
    deadline_s = clock.now_s() + _LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if clock.now_s() > deadline_s:
                raise ModelError(
                    "another process has been preparing this model for an hour",
                    remedy=f"end it, then try again (lock: {path})",
                ) from None
            track.at("waiting for another process that prepares this model")
            time.sleep(_POLL_S)
        else:
            return
