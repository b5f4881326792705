"""Provokes the races that the hand-over's guards are for, inside a tagged worker's own process. Nothing else uses it.

- The receiver stands still for ``receiver_delay_s``, at the very moment between "this chunk may be written" and the
  look at the block table that R2 asks for. Leases of the sender end meanwhile; blocks are freed and used again.
- ``unguarded`` takes one guard away, to show that the tagged engine would have seen what the guard prevents:
  ``source`` (R3): a lease that ended frees the blocks and stops nothing, and a chunk is copied out of a block whoever
  owns it now (``lease`` is the first half alone: then the look at the block table is the only guard left);
  ``destination`` (R2): a hand-over that was aborted goes on, and a chunk is written into the block that
  was granted once, whoever owns it now; ``digest`` (R4): what a chunk's bytes add up to is taken on trust; ``seal``: a
  block that comes back from Redis is taken on trust.

What was refused is written to ``<worker>.<pid>.kv.json`` in the evidence folder, a few times a second.
"""

import json
import os
import threading
import time
from collections import Counter
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pydantic

from tandem.cluster.programs import roles
from tandem.core.blocks import AttemptKey, BlockRef
from tandem.core.config.model import ConfigModel
from tandem.engine.kv.block_table import BlockTable
from tandem.engine.kv.pool import KvPool
from tandem.kvtransfer import receiver as receiving
from tandem.kvtransfer.machine import receiver_events as rx
from tandem.kvtransfer.machine import sender_events as ev
from tandem.kvtransfer.machine.lease import LeaseScan
from tandem.kvtransfer.machine.receiver import HandoverReceiver
from tandem.kvtransfer.receiver import KvReceiverService
from tandem.kvtransfer.sender import KvSenderService
from tandem.prefix_cache.keys import BlockKey
from tandem.prefix_cache.remote.envelope import HEAD_BYTES, TAG_BYTES, BlockEnvelope, Opened, Refusal
from tandem.prefix_cache.tiers import block_tiers
from tandem.worker_host.kv_memory import EngineBlockMemory

_WRITE_PERIOD_S = 0.2
_SUFFIX = ".kv.json"


class RaceSettings(ConfigModel):
    """Which race is provoked. The defaults provoke none."""

    receiver_delay_s: float = pydantic.Field(default=0.0, ge=0.0, le=60.0)
    """How long the receiver's connection stands still."""
    delay_every_s: float = pydantic.Field(default=0.3, ge=0.0, le=60.0)
    """How long it works between two delays."""
    unguarded: Literal["", "lease", "source", "destination", "digest", "seal"] = ""
    """The guard that is taken away."""

    @property
    def is_on(self) -> bool:
        """Whether anything is provoked."""
        return self.receiver_delay_s > 0.0 or bool(self.unguarded)


class RacingMemory(EngineBlockMemory):
    """The engine's blocks as hand-over threads see them: late, and without a guard if so asked."""

    def __init__(self, table: BlockTable, pool: KvPool, *, settings: RaceSettings) -> None:
        super().__init__(table, pool)
        self._settings = settings
        self._next_delay_s = 0.0

    def pin(self, ref: BlockRef, key: AttemptKey) -> memoryview | None:
        """Hold a source block, or only look at it."""
        return self._views[ref.block_id] if self._settings.unguarded == "source" else super().pin(ref, key)

    def unpin(self, ref: BlockRef, key: AttemptKey) -> None:
        """Let go of what was held."""
        if self._settings.unguarded != "source":
            super().unpin(ref, key)

    def begin_write(self, ref: BlockRef, key: AttemptKey) -> memoryview | None:
        """Stand still now and then; hold a destination block, or only look at it."""
        if self._settings.receiver_delay_s and time.monotonic() >= self._next_delay_s:
            # Set before the sleep: a second connection works meanwhile, and brings the blocks their next owners' KV.
            self._next_delay_s = time.monotonic() + self._settings.receiver_delay_s + self._settings.delay_every_s
            time.sleep(self._settings.receiver_delay_s)
        return self._views[ref.block_id] if self._settings.unguarded == "destination" else super().begin_write(ref, key)

    def end_write(self, ref: BlockRef, key: AttemptKey) -> None:
        """Let go of what was held."""
        if self._settings.unguarded != "destination":
            super().end_write(ref, key)


class UnguardedSender(KvSenderService):
    """An ended lease frees the blocks and tells nobody: the hand-over goes on, as where this went wrong before."""

    def _tick(self) -> None:
        with self._lock:
            for expired in self._leases.on_event(self._clock.now_s(), LeaseScan()):
                transfer = self._transfers.get(expired.key)
                if transfer is not None:
                    self._call(partial(self._events.on_committed, transfer.key, self._stats(transfer)))
            for transfer in tuple(self._transfers.values()):
                self.apply(transfer, ev.Tick())


class UnguardedReceiver(KvReceiverService):
    """An abort does not reach the connection: what was granted once can be written to the end."""

    def abort(self, key: AttemptKey, reason: str) -> None:
        """Do nothing."""


class TrustingReceiver(HandoverReceiver):
    """Every chunk is what its sender said, whatever has landed."""

    def on_event(self, now_s: float, event: rx.ReceiverEvent) -> list[rx.ReceiverAction]:
        """Believe."""
        if isinstance(event, rx.ChunkLanded):
            event = replace(event, digest=event.chunk.digest)
        return super().on_event(now_s, event)


class TrustingEnvelope(BlockEnvelope):
    """Whatever is as long as a block that was stored is the block that was asked for."""

    _num_bytes = 0

    def seal(self, key: BlockKey, payload: bytes | bytearray | memoryview) -> bytes:
        """See how long a stored block is."""
        sealed = super().seal(key, payload)
        self._num_bytes = len(sealed)
        return sealed

    def open(self, key: BlockKey, value: bytes) -> Opened | Refusal:
        """Believe."""
        if len(value) != self._num_bytes:
            return super().open(key, value)
        return Opened(memoryview(value)[HEAD_BYTES:-TAG_BYTES])


class _CountingEvents:
    """Passes a service's callbacks on and counts the failures by reason."""

    def __init__(self, inner: Any, failed: Counter[str]) -> None:
        self._inner = inner
        self._failed = failed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def on_failed(self, key: AttemptKey, reason: str, retryable: bool) -> None:
        """Count and pass on."""
        self._failed[reason] += 1
        self._inner.on_failed(key, reason, retryable)


class _Recorder:
    """Writes what this process's KV services have refused."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.failed: Counter[str] = Counter()
        self.services: list[KvSenderService | KvReceiverService] = []
        threading.Thread(target=self._run, name="race-recorder", daemon=True).start()

    def _run(self) -> None:
        while True:
            time.sleep(_WRITE_PERIOD_S)
            counters: Counter[str] = Counter()
            for service in self.services:
                counters.update(asdict(service.snapshot()))
            draft = self._path.with_suffix(".draft")
            draft.write_text(json.dumps({"failed": self.failed, "counters": counters}), encoding="utf-8")
            draft.replace(self._path)


def install(settings: RaceSettings, *, evidence_folder: Path, worker_id: str) -> None:
    """Make this process's role be built from racing parts. Before the worker program runs, and never undone."""
    recorder = _Recorder(evidence_folder / f"{worker_id}.{os.getpid()}{_SUFFIX}")
    sender = UnguardedSender if settings.unguarded in ("lease", "source") else KvSenderService
    receiver = UnguardedReceiver if settings.unguarded == "destination" else KvReceiverService

    def recorded(make: type[KvSenderService] | type[KvReceiverService], **parts: Any) -> Any:
        parts["events"] = _CountingEvents(parts["events"], recorder.failed)
        service = make(**parts)
        recorder.services.append(service)
        return service

    parts: list[tuple[ModuleType, str, Any]] = [
        (roles, "EngineBlockMemory", partial(RacingMemory, settings=settings)),
        (roles, "KvSenderService", partial(recorded, sender)),
        (roles, "KvReceiverService", partial(recorded, receiver)),
    ]
    if settings.unguarded == "digest":
        parts.append((receiving, "HandoverReceiver", TrustingReceiver))
    if settings.unguarded == "seal":
        parts.append((block_tiers, "BlockEnvelope", TrustingEnvelope))
    for module, name, replacement in parts:
        if not hasattr(module, name):
            raise AttributeError(f"{module.__name__} has no {name} any more: nothing would be provoked")
        setattr(module, name, replacement)


def read_refusals(folder: Path) -> dict[str, Counter[str]]:
    """Return ``{"failed": hand-overs by reason, "counters": what the links refused}``, summed over all processes."""
    sums: dict[str, Counter[str]] = {"failed": Counter(), "counters": Counter()}
    for path in folder.glob(f"*{_SUFFIX}"):
        for name, counts in json.loads(path.read_text(encoding="utf-8")).items():
            sums[name].update(counts)
    return sums
