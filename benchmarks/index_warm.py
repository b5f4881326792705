"""How long does a router take to write images of its index to Redis, and to start from them? And how long does its loop
stand still meanwhile?

64 workers with 16384 blocks each, no two the same (the worst case: shared names cost the index less, the images not).
The real writer writes the images to an embedded Valkey, the real loader reads them into an empty index, all workers
at once as when a router starts, and compared. A task that wants to run each millisecond measures the pauses.
"""

import asyncio
import gc
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import redis

from benchmarks.report import finish, parse, say
from tandem.core.clock import MonotonicClock
from tandem.core.ids import Epoch, WorkerId
from tandem.core.kv_events import KEY_BYTES, BlockKey, KvUpdate, SnapshotPart, Stored, Tier
from tandem.core.types import Role, WorkerInfo
from tandem.prefix_cache.config import PrefixCacheProgram
from tandem.prefix_cache.remote.gate import GatePolicy, RedisGate
from tandem.prefix_cache.remote.images import RemoteImages
from tandem.router.actions import WorkerKey
from tandem.router.cache.config import CacheImageSection, CacheSection
from tandem.router.cache.images import IndexImages
from tandem.router.cache.names import PromptNamer
from tandem.router.cache.view import CacheView
from tests.fakes.redis_server import RedisServer, redis_server

METHOD = __doc__ or ""
NUM_WORKERS, NUM_BLOCKS = 64, 16_384
SECTION = CacheSection(image=CacheImageSection(memory_bytes=256 << 20, max_wait_s=60.0, interval_s=60.0))
SECRET = bytes(range(32))


@dataclass
class Pauses:
    """How late a task was that wanted to run each millisecond."""

    late_s: list[float] = field(default_factory=list)

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            began_s = time.perf_counter()
            await asyncio.sleep(0.001)
            self.late_s.append(time.perf_counter() - began_s - 0.001)

    def longest_ms(self) -> float:
        """The longest."""
        return round(1e3 * max(self.late_s), 2)

    def p99_ms(self) -> float:
        """All but one in a hundred were shorter."""
        return round(1e3 * sorted(self.late_s)[int(0.99 * len(self.late_s))], 2)


@asynccontextmanager
async def pauses() -> AsyncIterator[Pauses]:
    """Measure until the block ends."""
    found = Pauses()
    task = asyncio.get_running_loop().create_task(found.watch())
    try:
        yield found
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def make_infos(num_workers: int) -> dict[WorkerKey, WorkerInfo]:
    """The workers."""
    infos = [
        WorkerInfo(
            worker_id=WorkerId(f"prefill-{number}"),
            epoch=Epoch(1),
            role=Role.PREFILL,
            address="127.0.0.1:1",
            model="m",
            model_digest="d",
            layout_fingerprint="l",
            block_size=16,
            total_blocks=1 << 20,
            max_context_tokens=4096,
            max_sequences=8,
            pid=1,
            host="h",
        )
        for number in range(num_workers)
    ]
    return {WorkerKey(worker_id=info.worker_id, epoch=info.epoch): info for info in infos}


def fill(view: CacheView, workers: Mapping[WorkerKey, WorkerInfo], num_blocks: int) -> None:
    """Let each worker tell of its blocks, as a snapshot."""
    draw = random.Random(1)
    for worker in workers:
        view.follow_from(worker)
        for start in range(0, num_blocks, 4096):
            num = min(4096, num_blocks - start)
            keys = tuple(BlockKey(draw.randbytes(KEY_BYTES)) for _ in range(num))
            held = (Stored(keys=keys, tier=Tier.DEVICE),)
            part = SnapshotPart(sequence=1, held=held, first=start == 0, last=start + num == num_blocks)
            if not view.on_update(worker, KvUpdate(epoch=worker.epoch, last_sequence=1, snapshot=part), 0.0):
                raise AssertionError("the view did not take the snapshot")


def contents(view: CacheView) -> dict[BlockKey, str]:
    """Holder of each name."""
    return {
        key: names.holder.worker_id
        for piece in view.walk(list(view.followed()))
        for names in piece
        for key in names.keys
    }


def make_router(remote: RemoteImages, workers: Mapping[WorkerKey, WorkerInfo]) -> tuple[CacheView, IndexImages]:
    """The part of a router that knows what is cached where."""
    view = CacheView(PromptNamer(PrefixCacheProgram()), SECTION)
    return view, IndexImages(remote, view, SECTION, info_of=workers.get, clock=MonotonicClock())


async def measure(server: RedisServer, num_workers: int, num_blocks: int) -> dict[str, object]:
    """Write, read, compare."""
    workers = make_infos(num_workers)
    gate = RedisGate(server.url, policy=GatePolicy(), clock=MonotonicClock())
    remote = RemoteImages(gate, secret=SECRET, namespace="bench", ttl_s=SECTION.image.ttl_s)
    view, images = make_router(remote, workers)
    fill(view, workers, num_blocks)
    gc.collect()
    gc.freeze()  # as a router's process does
    say(f"writing images of {num_workers} workers, {len(contents(view))} names")
    began_s, cpu_s = time.perf_counter(), time.process_time()
    async with pauses() as writing:
        await images.writer.step()
    write_s, write_cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
    if images.counts.num_written != num_workers:
        raise AssertionError(f"{images.counts.num_written} of {num_workers} images were written")
    with server.admin() as admin:
        num_bytes = stored_bytes(admin)
        used_bytes = int(admin.info("memory")["used_memory_dataset"])
    say("starting from them")
    again, started = make_router(remote, workers)
    began_s, cpu_s = time.perf_counter(), time.process_time()
    async with pauses() as reading:
        await asyncio.gather(*(started.loader.warm(worker, info) for worker, info in workers.items()))
    warm_s, warm_cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
    if started.counts.num_read != num_workers or contents(again) != contents(view):
        raise AssertionError(f"another index: {started.counts}")
    await remote.close()
    num_names = num_workers * num_blocks
    return {
        "warm_s": round(warm_s, 3),
        "blocks_warmed_per_s": round(num_names / warm_s),
        "redis_bytes_per_block": round(num_bytes / num_names, 2),
        "warm_longest_pause_ms": reading.longest_ms(),
        "write_s": round(write_s, 3),
        "write_longest_pause_ms": writing.longest_ms(),
        "details": {
            "workers": num_workers,
            "blocks_per_worker": num_blocks,
            "redis_used_bytes_per_block": round(used_bytes / num_names, 2),
            "warm_cpu_s": round(warm_cpu_s, 3),
            "warm_p99_pause_ms": reading.p99_ms(),
            "write_cpu_s": round(write_cpu_s, 3),
            "write_p99_pause_ms": writing.p99_ms(),
        },
    }


def stored_bytes(admin: "redis.Redis") -> int:
    """Keys and values of all images."""
    return sum(len(name) + admin.strlen(name) for name in admin.keys("bench:index:*"))


def main() -> None:
    """Measure and print."""
    options = parse(__doc__, "quick")
    num_workers, num_blocks = (8, 4096) if options.quick else (NUM_WORKERS, NUM_BLOCKS)
    with redis_server("valkey") as server:
        found = asyncio.run(measure(server, num_workers, num_blocks))
    details = found.pop("details")
    finish(options, found, method=METHOD, details=details if isinstance(details, dict) else {})


if __name__ == "__main__":
    main()
