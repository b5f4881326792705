"""What does the prefix cache bring a caller of the real model, in the three uses of the published table?

A long document asked about repeatedly, many-shot instructions, and a ten-turn chat with a long system prompt, each
asked of two clusters of one prefill and one decode worker that run at the same time: one with the cache, one without
(`prefix_cache.enabled: false`). Every ask goes to both, one after the other, in alternating order. Greedy answers must
be equal token by token.

- ``*_ttft_saved``: 1 - TTFT with / TTFT without, as the client measures it. Of document and many-shot the first ask
  only warms the cache and does not count (the published figures are of cached prompts); medians. Of the chat all turns
  count, the first included; means.
- ``*_cost_saved``: of the input tokens alone, a cached one at 0.1 of the price of an uncached one, counts as the usage
  of each answer says. At that price nothing can save more than 0.9 of the input's cost; the published 90 % is such a
  figure rounded to a whole percent, so ``goals_met`` compares at whole percents. ``cost_saved_with_output`` in the
  details counts output tokens too, at five times the price of an input token, and ``cost_saved_with_warming`` the asks
  that warm.
- ``tokens_not_recomputed``: cached tokens in the usage of the asks that count, all uses together.

Run: ``python -m benchmarks.prefix_cache --json [--quick]``.
"""

import asyncio
import contextlib
import functools
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict
from typing import Any

from benchmarks.cluster import cluster_config, prepare_builtin, running_cluster
from benchmarks.prefix_cache_play import OFF, ON, play, summarise
from benchmarks.prefix_cache_uses import QUICK_SIZES, Sizes, make_uses
from benchmarks.report import finish, parse, say
from tandem.client import AsyncClient
from tandem.core.prepared_model import PreparedModel
from tandem.core.types import ChatMessage
from tandem.text.tokenizer import Tokenizer

StartCluster = Callable[[str], AbstractAsyncContextManager[str]]
"""Takes an arm's name and returns a cluster that yields its public address."""


def real_cluster(model: PreparedModel, arm: str) -> AbstractAsyncContextManager[str]:
    """Return a cluster of one arm, which yields its address."""
    return running_cluster(cluster_config(prefix_cache={"enabled": arm == ON}), model)


async def measure(start: StartCluster, tokenizer: Tokenizer, sizes: Sizes) -> dict[str, dict[str, Any]]:
    """Run both clusters and all uses; return the figures by use."""
    uses = make_uses(sizes, tokenizer)
    figures: dict[str, dict[str, Any]] = {}
    async with contextlib.AsyncExitStack() as stack:
        clients: dict[str, AsyncClient] = {}
        for arm in (ON, OFF):
            say(f"starting the cluster with the cache {arm}")
            address = await stack.enter_async_context(start(arm))
            clients[arm] = await stack.enter_async_context(AsyncClient(address, timeout_s=300.0, retries=0))
            await clients[arm].wait_until_ready(60.0)
            # The first request of a process is not what a user sees all day; this one starts the template process too.
            await clients[arm].chat([ChatMessage(role="user", content="Hello")], max_tokens=4)
        for use in uses:
            figures[use.name] = summarise(await play(use, clients))
            say(f"{use.name}: {figures[use.name]}")
    return figures


def result_of(figures: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the numbers that count."""
    result: dict[str, Any] = {}
    for name, figure in figures.items():
        result |= {f"{name}_{saved}": figure[saved] for saved in ("ttft_saved", "cost_saved")}
    goals = [
        round(100 * figure[saved]) >= round(100 * goal)
        for figure in figures.values()
        for saved, goal in figure["goal"].items()
    ]
    return result | {
        "tokens_not_recomputed": sum(figure["tokens_not_recomputed"] for figure in figures.values()),
        "goals_met": all(goals),
        "mismatches": sum(figure["mismatches"] for figure in figures.values()),
    }


def main() -> None:
    """Run and print."""
    options = parse(__doc__, "quick")
    sizes = QUICK_SIZES if options.quick else Sizes()
    model = prepare_builtin()
    figures = asyncio.run(measure(functools.partial(real_cluster, model), Tokenizer.load(model.folder), sizes))
    finish(options, result_of(figures), method=__doc__ or "", details={"uses": figures, "sizes": asdict(sizes)})


if __name__ == "__main__":
    main()
