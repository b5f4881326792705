"""A real small cluster, keys and all, over engines whose KV bytes name tenant, prefix and position: reuse, isolation,
pins, flushes, and a router that comes back. One cluster for the whole story; it takes seconds to start."""

import asyncio

import pytest

from tandem.chaos.cluster.cluster import ChaosCluster
from tandem.chaos.cluster.options import ChaosOptions
from tandem.client import AsyncClient, CachePin, CacheStatus, Generation, InvalidArgument, PermissionDenied

BLOCK = 16
DOCUMENT = tuple(4 + (7 * index) % 250 for index in range(10 * BLOCK))


async def ask(client: AsyncClient, tail: int, pin: CachePin | None = None) -> Generation:
    prompt = (*DOCUMENT, tail)
    if pin is None:
        return await client.generate(token_ids=prompt, max_tokens=4, ignore_eos=True)
    return await client.generate(token_ids=prompt, max_tokens=4, ignore_eos=True, cache_pin=pin)


async def known(cluster: ChaosCluster) -> CacheStatus:
    """Wait until the router's picture of every worker is complete."""
    async with asyncio.timeout(10.0):
        while True:
            status = await cluster.operator().cache_status()
            if all(watched.watching and watched.num_behind == 0 for watched in status.workers):
                return status
            await asyncio.sleep(0.05)


def blocks_of(status: CacheStatus) -> dict[str, int]:
    return {w.worker_id: 0 if w.stats is None else w.stats.num_blocks for w in status.workers}


async def test_the_cache_of_a_cluster() -> None:
    options = ChaosOptions(
        num_prefill=2,
        num_decode=1,
        tenants=("acme", "rival"),
        warm_up=False,
        router={"placement": {"mode": "split"}},  # else D, which holds the prefix as well, computes the rest itself
    )
    async with ChaosCluster(options) as cluster:
        acme, rival = cluster.client("acme"), cluster.client("rival")
        first = await ask(acme, 1)
        assert (first.usage.cached_tokens, first.usage.uncached_tokens) == (0, len(DOCUMENT) + 1)
        status = await known(cluster)
        assert status.enabled
        assert status.index.num_blocks == 10, "P and D share names"

        # Who computed it computes the rest, whatever the draw.
        answers = [await ask(acme, tail) for tail in range(2, 10)]
        assert {answer.usage.cached_tokens for answer in answers} == {len(DOCUMENT)}
        assert {answer.workers.prefill_worker for answer in answers} == {first.workers.prefill_worker}

        # The same prompts of another tenant find nothing, and what they bring in is theirs alone.
        theirs = [await ask(rival, 1), await ask(rival, 2)]
        assert [answer.usage.cached_tokens for answer in theirs] == [0, len(DOCUMENT)]

        await check_pins(acme)
        await check_flushes(cluster, acme, rival)
        await check_warm_start(cluster, acme)
        assert cluster.mismatches() == []


async def check_pins(acme: AsyncClient) -> None:
    pinned = await ask(acme, 20, CachePin(ttl_s=60.0, num_tokens=4 * BLOCK + 3))
    assert pinned.usage.pinned_tokens == 4 * BLOCK, "whole blocks"
    with pytest.raises(InvalidArgument, match=r"cache_pin\.ttl_s"):
        await ask(acme, 20, CachePin(ttl_s=1e9))
    with pytest.raises(InvalidArgument, match=r"cache_pin\.num_tokens"):
        await ask(acme, 20, CachePin(ttl_s=60.0, num_tokens=10_000))


async def check_flushes(cluster: ChaosCluster, acme: AsyncClient, rival: AsyncClient) -> None:
    assert (await known(cluster)).workers[0].stats is not None
    flushed = await acme.flush_prefix_cache()
    assert (flushed.num_workers, flushed.num_missed) == (3, 0)
    assert flushed.num_blocks >= 20, "of P and of D, the pinned ones too"
    assert (await ask(acme, 30)).usage.cached_tokens == 0
    assert (await ask(rival, 30)).usage.cached_tokens == len(DOCUMENT), "a tenant's flush is its own"
    async with AsyncClient(cluster.internal_address, api_key=cluster._keys["acme"].text, retries=0) as intruder:
        with pytest.raises(PermissionDenied):
            await intruder.flush_cache_of(None)
    await cluster.operator().flush_cache_of(None)
    assert set(blocks_of(await known(cluster)).values()) == {0}
    assert (await ask(rival, 31)).usage.cached_tokens == 0


async def check_warm_start(cluster: ChaosCluster, acme: AsyncClient) -> None:
    """A router that begins anew asks the workers what they hold, and needs no store for it."""
    before = await ask(acme, 40)
    await known(cluster)
    await cluster.restart_router()
    await cluster.settled()
    status = await known(cluster)
    assert status.index.num_blocks > 0
    assert {watched.num_snapshots for watched in status.workers} == {1}
    answers = [await ask(acme, tail) for tail in range(41, 45)]
    assert {answer.usage.cached_tokens for answer in answers} == {len(DOCUMENT)}
    assert {answer.workers.prefill_worker for answer in answers} == {before.workers.prefill_worker}
