"""A real small cluster whose router comes back from images in Redis; and from one that is wrong, which costs no token.

The engines' KV bytes name tenant, prefix and position, so KV that is used where it does not belong is seen.
"""

import asyncio
from pathlib import Path

import redis

from tandem.chaos.cluster.cluster import ChaosCluster
from tandem.chaos.cluster.options import ChaosOptions
from tandem.client import AsyncClient, CacheStatus
from tandem.core.clock import MonotonicClock
from tandem.core.ids import Tenant
from tandem.core.types import WorkerInfo
from tandem.prefix_cache.events import Stored, Tier
from tandem.prefix_cache.image import ImageHead, ImagePart, image_subject
from tandem.prefix_cache.keys import PrefixKeyer, PrefixSpace
from tandem.prefix_cache.remote.gate import GatePolicy, RedisGate
from tandem.prefix_cache.remote.images import RemoteImages

BLOCK = 16
DOCUMENT = tuple(4 + (7 * index) % 250 for index in range(10 * BLOCK))
UNSEEN = tuple(4 + (11 * index) % 250 for index in range(10 * BLOCK))
SECRET = b"0123456789abcdef0123456789abcdef"
WRONG_ID = b"w" * 16


async def ask(client: AsyncClient, document: tuple[int, ...], tail: int) -> int:
    """Return how many tokens of the prompt were cached."""
    answer = await client.generate(token_ids=(*document, tail), max_tokens=4, ignore_eos=True)
    return answer.usage.cached_tokens


async def known(cluster: ChaosCluster) -> CacheStatus:
    """Wait until the router's picture of every worker is complete."""
    async with asyncio.timeout(10.0):
        while True:
            status = await cluster.operator().cache_status()
            if all(watched.watching and watched.num_behind == 0 for watched in status.workers):
                return status
            await asyncio.sleep(0.05)


async def back(cluster: ChaosCluster) -> CacheStatus:
    """Start the router again and wait until it knows all workers."""
    await cluster.restart_router()
    await cluster.settled()
    return await known(cluster)


async def write_wrong(url: str, info: WorkerInfo, tenant: str, sequence: int) -> None:
    """Write an image, genuine in form, by which the worker holds a prompt that it has never seen."""
    gate = RedisGate(url, policy=GatePolicy(timeout_s=1.0), clock=MonotonicClock())
    images = RemoteImages(gate, secret=SECRET, namespace="tandem", ttl_s=60.0)
    space = PrefixSpace(tenant=Tenant(tenant), layout_fingerprint=info.layout_fingerprint, block_size=info.block_size)
    held = Stored(keys=PrefixKeyer(SECRET, space).keys(UNSEEN), tier=Tier.DEVICE)
    subject = image_subject(info.worker_id, layout_fingerprint=info.layout_fingerprint, block_size=info.block_size)
    part = ImagePart(tier=Tier.DEVICE, num_blocks=len(held.keys))
    assert await images.write_part(subject, WRONG_ID, 0, held) is None
    head = ImageHead(epoch=info.epoch, sequence=sequence, image_id=WRONG_ID, parts=(part,))
    assert await images.write_head(subject, head) is None
    await images.close()


async def test_a_router_comes_back_from_images_and_a_wrong_one_costs_no_token(tmp_path: Path) -> None:
    secret_file = tmp_path / "secret"
    secret_file.write_bytes(SECRET)
    options = ChaosOptions(
        num_prefill=2,
        num_decode=1,
        tenants=("acme",),
        warm_up=False,
        registry="embedded",
        router={"placement": {"mode": "split"}, "cache": {"image": {"interval_s": 0.5, "ttl_s": 60.0}}},
        cluster={"prefix_cache": {"secret_file": secret_file, "redis": {"timeout_s": 0.5}}},
    )
    async with ChaosCluster(options) as cluster:
        acme = cluster.client("acme")
        assert await ask(acme, DOCUMENT, 1) == 0
        store = redis.Redis.from_url(cluster.registry_url)
        async with asyncio.timeout(10.0):
            while len(store.keys("tandem:index:head:*")) < 3 or not store.keys("tandem:index:part:*"):
                await asyncio.sleep(0.05)
        await asyncio.sleep(1.5)  # of what the last step of the request brought as well
        before = await known(cluster)
        status = await back(cluster)
        assert {watched.num_snapshots for watched in status.workers} == {0}
        assert status.index.num_blocks == before.index.num_blocks
        assert await ask(acme, DOCUMENT, 2) == len(DOCUMENT)

        store.set("tandem:index:writer", "somebody else")  # so that the wrong image stays
        await asyncio.sleep(1.0)
        for worker in (await cluster.status()).workers:
            await write_wrong(cluster.registry_url, worker.info, "acme", sequence=0)
        status = await back(cluster)
        assert {watched.num_snapshots for watched in status.workers} == {0}
        assert status.index.num_blocks > before.index.num_blocks, "it was believed"
        assert await ask(acme, UNSEEN, 1) == 0, "the worker knows better"
        assert {await ask(acme, UNSEEN, tail) for tail in range(2, 6)} <= {0, len(UNSEEN)}, "one of the two has it now"
        assert cluster.mismatches() == []
        store.close()
