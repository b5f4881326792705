"""The Redis tier and the shared reservations, used as a worker and a router use them, by several callers at once.

Each ask looks up the blocks of a prompt and reserves a worker, and that time is what a request would have waited. What
was missing is put back afterwards. Every block that is taken is compared with what it must be.

All of it runs in a process of its own, at a raised priority where that is allowed: times of 20 ms are measured on a
machine that has other things to do. It takes a few percent of a core. ``TierLoad`` is the handle on that process.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass

import structlog

from tandem.core.clock import MonotonicClock
from tandem.core.ids import Epoch, WorkerId
from tandem.prefix_cache.keys import BlockKey
from tandem.prefix_cache.remote.blocks import RemoteBlocks
from tandem.prefix_cache.remote.envelope import BlockEnvelope
from tandem.prefix_cache.remote.gate import CallKind, GatePolicy, Miss, RedisGate
from tandem.prefix_cache.remote.reservations import Candidate, Reservation, SharedReservations

_SECRET = b"secret of the redis faults run"
_LAYOUT = hashlib.sha256(b"redis faults").hexdigest()
_NUM_PROMPTS, _BLOCKS, _BLOCK_BYTES = 24, 8, 8 * 1024
_CALLERS, _PAUSE_S = 6, 0.15
_NICE = -10
_WORKERS = tuple(
    Candidate(worker_id=WorkerId(f"prefill-{n}"), epoch=Epoch(1), base_s=0.1, load_s=0.1) for n in range(4)
)
_FAILURES = (Miss.LATE, Miss.UNREACHABLE, Miss.REFUSED, Miss.READ_ONLY, Miss.FULL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One ask, at its start on CLOCK_MONOTONIC. ``wrong`` blocks were taken and were not what they must be."""

    began_s: float
    took_s: float
    found: int
    wrong: int
    was_reserved: bool
    was_stored: bool  # what was missing went back, or nothing was missing


def key_of(prompt: int, index: int) -> BlockKey:
    """Name of one block."""
    return BlockKey(hashlib.sha256(f"{prompt}/{index}".encode()).digest())


def payload_of(prompt: int, index: int) -> bytes:
    """Content of one block."""
    return hashlib.sha256(f"kv {prompt}/{index}".encode()).digest() * (_BLOCK_BYTES // 32)


@dataclass(frozen=True, slots=True, kw_only=True)
class TierState:
    """What the tier said of itself with an ask. Counts are totals."""

    breakers: tuple[str, str]  # of reads and writes
    num_failed: int  # calls that were made and failed; those that an open breaker spared are not among them
    num_refused: int  # values that were looked at and were not what they said


class TierLoad:
    """Starts the process, reads what it says, stops it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.asked: list[Asked] = []
        self.state = TierState(breakers=("", ""), num_failed=0, num_refused=0)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Ask while the block runs."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", __name__, self._url, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read(process))
                try:
                    yield
                finally:
                    if process.stdin is not None:
                        process.stdin.close()  # the process ends with it, whatever becomes of this one
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        if process.stdout is None:
            return
        async for line in process.stdout:
            said = json.loads(line)
            self.asked.append(Asked(**said["asked"]))
            self.state = TierState(
                breakers=(said["read"], said["write"]), num_failed=said["failed"], num_refused=said["refused"]
            )
        await process.wait()


class _Asking:
    """In the process: asks until its standard input ends."""

    def __init__(self, url: str, *, policy: GatePolicy | None = None, namespace: str = "probe") -> None:
        self._gate = RedisGate(url, policy=policy or GatePolicy(), clock=MonotonicClock())
        envelope = BlockEnvelope(_SECRET, layout_fingerprint=_LAYOUT)
        self._blocks = RemoteBlocks(self._gate, envelope, namespace=namespace, ttl_s=60.0)
        self._shared = SharedReservations(self._gate, namespace=namespace, ttl_s=5.0)
        self._draw = random.Random(3)
        self._is_over = asyncio.Event()
        self._number = 0

    async def run(self) -> None:
        """Ask, and write a line about each ask."""
        with contextlib.suppress(PermissionError):
            os.nice(_NICE)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(_CALLERS):
                    group.create_task(self._caller())
                await asyncio.to_thread(sys.stdin.read)
                self._is_over.set()
        finally:
            await self._gate.close()

    async def _caller(self) -> None:
        while not self._is_over.is_set():
            asked = await self._ask(self._draw.randrange(_NUM_PROMPTS))
            said = {
                "asked": asdict(asked),
                "read": self._gate.state(CallKind.READ).value,
                "write": self._gate.state(CallKind.WRITE).value,
                "failed": sum(self._gate.counts[miss] for miss in _FAILURES),
                "refused": sum(self._blocks.refused.values()),
            }
            print(json.dumps(said), flush=True)
            await asyncio.sleep(self._draw.uniform(0.0, 2 * _PAUSE_S))

    async def _ask(self, prompt: int) -> Asked:
        self._number += 1
        name = f"r{self._number}"
        keys = [key_of(prompt, index) for index in range(_BLOCKS)]
        began_s = time.monotonic()
        # As a request would: both at the same time, while its prompt is being tokenised.
        got, chosen = await asyncio.gather(self._blocks.get(keys), self._shared.select(name, _WORKERS))
        took_s = time.monotonic() - began_s
        blocks: Sequence[memoryview] = [] if isinstance(got, Miss) else got
        wrong = sum(bytes(block) != payload_of(prompt, index) for index, block in enumerate(blocks))
        missing = {keys[index]: payload_of(prompt, index) for index in range(len(blocks), _BLOCKS)}
        stored = await self._blocks.put(missing)
        if isinstance(chosen, Candidate):
            await self._shared.release([Reservation(name=name, worker_id=chosen.worker_id, epoch=chosen.epoch)])
        return Asked(
            began_s=began_s,
            took_s=took_s,
            found=len(blocks),
            wrong=wrong,
            was_reserved=isinstance(chosen, Candidate),
            was_stored=not isinstance(stored, Miss),
        )


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # stdout is for what was measured
    asyncio.run(_Asking(sys.argv[1]).run())
