"""Workers that fail and die under running requests: the caller sees a pause, not an error, and every token once."""

import asyncio
import gc
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from tandem.core import reasons
from tandem.core.types import Role
from tandem.inference.v1 import inference_pb2 as pb
from tandem.router.config import PlacementSection, RouterConfig, TimersSection
from tandem.router.placement import PlacementMode
from tests.fakes.fake_worker import FakeWorker, Pace, failure, text_at, token_at
from tests.fakes.kv_raw_peer import num_fds
from tests.fakes.router_cluster import EOF, Cluster, cluster, until

FAST = RouterConfig(port=0, timers=TimersSection(suspect_after_s=0.6, dead_after_s=1.0, gap_timeout_s=0.5))


def workers(num_prefill: int = 2, num_decode: int = 2, *, step_s: float = 0.005) -> list[FakeWorker]:
    return [FakeWorker(f"prefill-{index}", Role.PREFILL) for index in range(num_prefill)] + [
        FakeWorker(f"decode-{index}", Role.DECODE, Pace(step_s=step_s)) for index in range(num_decode)
    ]


class Reader:
    """Reads a stream, checking every position; lets a test act in mid-stream."""

    def __init__(self, found: Cluster, *, max_tokens: int, n: int = 1) -> None:
        self.call = found.stream(pb.GenerateRequest(text="the and", max_tokens=max_tokens, n=n))
        self.tokens: list[list[int]] = [[] for _ in range(n)]
        self.texts = [""] * n
        self.completed: pb.Completed | None = None

    async def read(self, until_position: int | None = None) -> None:
        while True:
            message: Any = await self.call.read()
            if message is EOF:
                return
            if message.WhichOneof("event") == "completed":
                self.completed = message.completed
            elif message.WhichOneof("event") == "delta":
                delta = message.delta
                assert delta.position == len(self.tokens[delta.index]), "a gap or a repeat"
                self.tokens[delta.index] += delta.token_ids
                self.texts[delta.index] += delta.text
                if until_position is not None and min(map(len, self.tokens)) > until_position:
                    return

    def assert_whole(self, max_tokens: int) -> None:
        for child, tokens in enumerate(self.tokens):
            assert tokens == [token_at(child, position) for position in range(max_tokens)]
            assert self.texts[child] == "".join(text_at(child, position) for position in range(max_tokens))


@pytest.mark.parametrize("n", [1, 3])
async def test_a_decode_worker_that_dies_in_mid_stream(tmp_path: Path, n: int) -> None:
    async with cluster(tmp_path, workers(), FAST) as found:
        reader = Reader(found, max_tokens=80, n=n)
        await reader.read(until_position=20)
        victim = next(w for w in found.workers.values() if w.role is Role.DECODE and w.num_running)
        await victim.stop()
        await reader.read()
        reader.assert_whole(80)
        assert reader.completed is not None
        assert reader.completed.attempts == 2
        assert reader.completed.usage.output_tokens == 80 * n
        assert reader.completed.workers.decode_worker_id != victim.name
        found.assert_nothing_left()


async def test_a_prefill_worker_that_dies_during_the_prompt(tmp_path: Path) -> None:
    crew = workers()
    for worker in crew:
        worker.pace = Pace(prefill_s=0.3)
    config = RouterConfig(port=0, timers=FAST.timers, placement=PlacementSection(mode=PlacementMode.SPLIT))
    async with cluster(tmp_path, crew, config) as found:
        reader = Reader(found, max_tokens=10)
        await until(lambda: any(w.tasks for w in crew[:2]))
        victim = next(w for w in crew[:2] if w.tasks)
        await victim.stop()
        await reader.read()
        reader.assert_whole(10)
        # The decode worker of the first attempt was told to let go of its reservation.
        assert sum(len(w.aborts) for w in crew[2:]) >= 1
        found.assert_nothing_left()


async def test_the_only_decode_worker_restarts_with_a_new_epoch(tmp_path: Path) -> None:
    async with cluster(tmp_path, workers(1, 1), FAST) as found:
        reader = Reader(found, max_tokens=60)
        await reader.read(until_position=10)
        await found.workers["decode-0"].stop()
        successor = FakeWorker("decode-0", Role.DECODE)
        await found.register(successor)
        await reader.read()
        reader.assert_whole(60)
        assert successor.tasks[0].attempt >= 1
        assert len(successor.tasks[0].emitted[0]) > 10


async def test_a_silent_worker_is_replaced_and_its_late_tokens_change_nothing(tmp_path: Path) -> None:
    async with cluster(tmp_path, workers(), FAST) as found:
        reader = Reader(found, max_tokens=400)
        await reader.read(until_position=10)
        zombie = next(w for w in found.workers.values() if w.role is Role.DECODE and w.num_running)
        zombie.silent = True
        reading = asyncio.ensure_future(reader.read())
        await until(lambda: any(w.tasks for w in found.workers.values() if w is not zombie and w.role is Role.DECODE))
        zombie.silent = False
        await reading
        reader.assert_whole(400)
        # Its registration never lapsed, so only the link itself can bring it back.
        await until(lambda: found.router.dispatcher.fleet.num_alive(Role.DECODE) == 2)


async def test_a_stream_that_is_given_up_leaves_no_connection_behind(tmp_path: Path) -> None:
    """Also while Python's collector is idle, as it is in a router without traffic."""
    async with cluster(tmp_path, workers(1, 1), FAST) as found:
        router, fleet = found.router, found.router.dispatcher.fleet
        key = next(record.key for record in fleet.records() if record.key.worker_id == "decode-0")
        await asyncio.sleep(0.2)
        gc.collect()
        gc.disable()
        try:
            before = num_fds()
            for _ in range(5):
                router._links.restart(key)
                await until(lambda: fleet.num_alive(Role.DECODE) == 0)
                await until(lambda: fleet.num_alive(Role.DECODE) == 1)
            await until(lambda: num_fds() <= before + 2)
        finally:
            gc.enable()


async def test_a_worker_that_leaves_and_joins_again_leaves_no_connection_behind(tmp_path: Path) -> None:
    """As one does that stood still for longer than its registration lasts."""
    async with cluster(tmp_path, workers(1, 1), FAST) as found:
        links, fleet = found.router._links, found.router.dispatcher.fleet
        (record,) = [record for record in fleet.records() if record.key.worker_id == "decode-0"]
        await asyncio.sleep(0.2)
        gc.collect()
        gc.disable()
        try:
            before = num_fds()
            for _ in range(5):
                links.change(joined=(), left=[record.key])
                await until(lambda: fleet.num_alive(Role.DECODE) == 0)
                links.change(joined=[record.info], left=())
                await until(lambda: fleet.num_alive(Role.DECODE) == 1)
            await until(lambda: num_fds() <= before + 2)
        finally:
            gc.enable()


async def test_a_short_silence_changes_nothing(tmp_path: Path) -> None:
    async with cluster(tmp_path, workers(1, 2), FAST) as found:
        reader = Reader(found, max_tokens=100)
        await reader.read(until_position=10)
        paused = next(w for w in found.workers.values() if w.role is Role.DECODE and w.num_running)
        paused.silent = True
        await asyncio.sleep(0.4)
        paused.silent = False
        await reader.read()
        reader.assert_whole(100)
        assert reader.completed is not None
        assert reader.completed.attempts == 1


async def test_a_lost_first_token_is_made_again(tmp_path: Path) -> None:
    crew = workers(2, 1)
    crew[0].mute_prefill_tokens = True
    async with cluster(tmp_path, crew, FAST) as found:
        reader = Reader(found, max_tokens=12)
        await reader.read()
        reader.assert_whole(12)
        assert reader.completed is not None
        assert reader.completed.attempts in (1, 2)  # 1 when the healthy prefill worker was chosen at once


@pytest.mark.parametrize("reason", [reasons.KV_TIMEOUT, reasons.NO_BLOCKS, reasons.ENGINE, reasons.KV_INTEGRITY])
async def test_a_retryable_failure_is_not_shown(tmp_path: Path, reason: str) -> None:
    crew = workers(1, 1)
    crew[1].fail_next = [failure(reason)]
    async with cluster(tmp_path, crew, FAST) as found:
        reader = Reader(found, max_tokens=8)
        await reader.read()
        reader.assert_whole(8)
        assert reader.completed is not None
        assert reader.completed.attempts == 2
        found.assert_nothing_left()


async def test_poison_takes_two_workers_and_no_third(tmp_path: Path) -> None:
    crew = workers(1, 3)
    for worker in crew:
        worker.stop_after = 0 if worker.role is Role.DECODE else None
    async with cluster(tmp_path, crew, FAST) as found:
        reader = Reader(found, max_tokens=4000)
        other = Reader(found, max_tokens=200)
        for _ in range(2):
            task = await _running_decode(found, reader)
            await task.stop()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await reader.read()
        assert caught.value.code() == grpc.StatusCode.INTERNAL
        assert "workers crashed each time" in (caught.value.details() or "")
        assert any(w.role is Role.DECODE and w not in _stopped(found) for w in found.workers.values())
        other.call.cancel()


async def _running_decode(found: Cluster, reader: Reader) -> FakeWorker:
    """The worker on which the long request is in the running step; it was not there before."""
    live = found.router.dispatcher._lives

    def running() -> list[FakeWorker]:
        ledgers = [entry.ledger for entry in live.values() if entry.ledger.task.stop.max_tokens == 4000]
        keys = [ledger.attempt.decode for ledger in ledgers if ledger.attempt is not None]
        on = [key.worker_id for ledger, key in zip(ledgers, keys, strict=False) if ledger.runs_on(key)]
        return [found.workers[name] for name in on if found.workers[name] not in _stopped(found)]

    await until(lambda: bool(running()))
    return running()[0]


def _stopped(found: Cluster) -> list[FakeWorker]:
    return [worker for worker in found.workers.values() if worker._server is None]


async def test_without_a_prefill_pool_answers_go_on(tmp_path: Path) -> None:
    async with cluster(tmp_path, workers(1, 1), FAST) as found:
        await found.workers["prefill-0"].stop()
        await asyncio.sleep(0.05)
        reader = Reader(found, max_tokens=8)
        await reader.read()
        reader.assert_whole(8)
        assert reader.completed is not None
        assert reader.completed.workers.prefill_worker_id == "decode-0"
