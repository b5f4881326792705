"""A router starts cold where Redis is in trouble, and from images again when it is well."""

import os
import signal

import pytest

from tandem.core.clock import MonotonicClock
from tests.fakes.redis_server import RedisServer, free_port, redis_server
from tests.fakes.router_cluster import until
from tests.integration.router.test_cache_following import held, serving
from tests.integration.router.test_warm_start import IMAGE, router, worker_with


@pytest.mark.parametrize("trouble", ["down", "hung", "read-only", "full", "locked"])
async def test_redis_in_trouble_means_a_cold_start_within_the_bound(trouble: str) -> None:
    worker = worker_with(16 * 100)
    with redis_server("valkey") as server:
        async with serving(worker) as info:
            async with router(server.url, [info]) as before:
                await until(lambda: before.snapshots(info) == 1)
                if trouble in ("down", "hung"):
                    await before.write()
                _trouble(server, trouble)
                began_s = MonotonicClock().now_s()
                writing = before.images.writer
                await writing.step()
                assert MonotonicClock().now_s() - began_s < 2.0
            began_s = MonotonicClock().now_s()
            async with router(server.url, [info]) as after:
                await until(lambda: after.snapshots(info) == 1)
                assert MonotonicClock().now_s() - began_s < IMAGE.max_wait_s
                assert after.images.counts.num_read == 0
                assert held(after.view, info, 64) == 64
            if trouble == "hung":
                os.kill(server.process.pid, signal.SIGCONT)


def _trouble(server: RedisServer, trouble: str) -> None:
    admin = server.admin()
    if trouble == "down":
        server.process.kill()
        server.process.wait(timeout=10.0)
    elif trouble == "hung":
        os.kill(server.process.pid, signal.SIGSTOP)
    elif trouble == "read-only":
        admin.replicaof("127.0.0.1", str(free_port()))
    elif trouble == "full":
        admin.config_set("maxmemory", "1")
        admin.config_set("maxmemory-policy", "noeviction")
    else:
        admin.config_set("requirepass", "another")


async def test_redis_that_was_restarted_in_between_has_nothing_and_gets_it_again() -> None:
    worker, port = worker_with(16 * 100), free_port()
    async with serving(worker) as info:
        with redis_server("valkey", port=port) as server:
            async with router(server.url, [info]) as before:
                await until(lambda: before.snapshots(info) == 1)
                assert await before.write() == 1
        with redis_server("valkey", port=port) as server:
            async with router(server.url, [info]) as after:
                await until(lambda: after.snapshots(info) == 1)
                assert after.images.counts.num_missed == 1
                assert after.images.counts.refused == {}
                assert await after.write() == 1
            async with router(server.url, [info]) as third:
                await until(lambda: third.images.counts.num_read == 1 and bool(third.view.positions()))
                assert third.snapshots(info) == 0
