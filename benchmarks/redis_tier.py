"""The Redis tier and the shared reservations, used as a worker and a router use them, by several callers at once.

Each ask looks up the blocks of a prompt and reserves a worker, and that time is what a request would have waited. What
was missing is put back afterwards. Every block that is taken is compared with what it must be. All of it runs on an
event loop in a thread of its own: what else the program does is not to be measured.
"""

import asyncio
import contextlib
import hashlib
import random
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tandem.core.clock import MonotonicClock
from tandem.core.ids import Epoch, RequestId, WorkerId
from tandem.prefix_cache.keys import BlockKey
from tandem.prefix_cache.remote.blocks import RemoteBlocks
from tandem.prefix_cache.remote.envelope import BlockEnvelope
from tandem.prefix_cache.remote.gate import CallKind, GatePolicy, Miss, RedisGate
from tandem.prefix_cache.remote.reservations import Candidate, SharedReservations

_SECRET = b"secret of the redis faults run"
_LAYOUT = hashlib.sha256(b"redis faults").hexdigest()
_NUM_PROMPTS, _BLOCKS, _BLOCK_BYTES = 24, 8, 8 * 1024
_CALLERS, _PAUSE_S = 6, 0.15
_SWITCH_S = 0.0005  # between threads of this program: the default of 5 ms would be measured
_WORKERS = tuple(Candidate(worker_id=WorkerId(f"prefill-{n}"), epoch=Epoch(1), cost_s=0.1) for n in range(4))
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


class TierLoad:
    """Asks until it is stopped."""

    def __init__(self, url: str, *, policy: GatePolicy | None = None, namespace: str = "probe") -> None:
        # Made here and used in the thread alone: connections are opened with the first call.
        self._gate = RedisGate(url, policy=policy or GatePolicy(), clock=MonotonicClock())
        envelope = BlockEnvelope(_SECRET, layout_fingerprint=_LAYOUT)
        self._blocks = RemoteBlocks(self._gate, envelope, namespace=namespace, ttl_s=60.0)
        self._shared = SharedReservations(self._gate, namespace=namespace, ttl_s=5.0)
        self._draw = random.Random(3)
        self._is_over = threading.Event()
        self._number = 0
        self.asked: list[Asked] = []

    @property
    def num_refused(self) -> int:
        """Values that were looked at and were not what they said."""
        return sum(self._blocks.refused.values())

    @property
    def num_failed(self) -> int:
        """Calls that were made and failed; those that an open breaker spared are not among them."""
        return sum(self._gate.counts[miss] for miss in _FAILURES)

    def states(self) -> tuple[str, str]:
        """What reads and writes meet."""
        return self._gate.state(CallKind.READ).value, self._gate.state(CallKind.WRITE).value

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Ask while the block runs."""
        before_s = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_S)
        thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="tier")
        thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            thread.join(timeout=30.0)
            sys.setswitchinterval(before_s)

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(_CALLERS):
                    group.create_task(self._caller())
        finally:
            await self._gate.close()

    async def _caller(self) -> None:
        while not self._is_over.is_set():
            await self._ask(self._draw.randrange(_NUM_PROMPTS))
            await asyncio.sleep(self._draw.uniform(0.0, 2 * _PAUSE_S))

    async def _ask(self, prompt: int) -> None:
        self._number += 1
        name = RequestId(f"r{self._number}")
        keys = [key_of(prompt, index) for index in range(_BLOCKS)]
        began_s = time.monotonic()
        # As a request would: both at the same time, while its prompt is being tokenised.
        got, chosen = await asyncio.gather(self._blocks.get(keys), self._shared.select(name, 0.1, _WORKERS))
        took_s = time.monotonic() - began_s
        blocks: Sequence[memoryview] = [] if isinstance(got, Miss) else got
        wrong = sum(bytes(block) != payload_of(prompt, index) for index, block in enumerate(blocks))
        missing = {keys[index]: payload_of(prompt, index) for index in range(len(blocks), _BLOCKS)}
        stored = await self._blocks.put(missing)
        if isinstance(chosen, Candidate):
            await self._shared.release(name, chosen.worker_id, chosen.epoch)
        self.asked.append(
            Asked(
                began_s=began_s,
                took_s=took_s,
                found=len(blocks),
                wrong=wrong,
                was_reserved=isinstance(chosen, Candidate),
                was_stored=not isinstance(stored, Miss),
            )
        )
