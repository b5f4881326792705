"""`tandem cache stats`, `top` and `flush`: the prefix cache as the cluster's router sees it."""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from tandem.client import CacheStatus, Flushed, Unavailable
from tandem.cluster.commands.connection import Connection
from tandem.cluster.commands.terminal import Terminal, open_terminal
from tandem.core.cache import WatchedCache, WorkerCacheStats, hit_rates
from tandem.core.environment import Environment, read_environment
from tandem.core.errors import InvalidArgument
from tandem.core.ids import Tenant
from tandem.core.kv_events import Tier

_TIMEOUT_S = 10.0


def run_cache_stats(connection: Connection, *, as_json: bool) -> None:
    """Ask and show. Raises TandemError."""
    environment = read_environment()
    terminal = open_terminal(environment)
    status = asyncio.run(_ask(connection, environment))
    if as_json:
        terminal.say(json.dumps(asdict(status)))
        return
    console = _console(terminal)
    if not status.enabled:
        console.print("the router looks nothing up: the prefix cache is off, or it was told no secret")
    console.print(worker_table(status.workers))
    if any(
        tier.tier is not Tier.DEVICE for each in status.workers if each.stats is not None for tier in each.stats.tiers
    ):
        console.print(tier_table(status.workers))
    index = status.index
    console.print(
        f"router's index: {index.num_blocks} of {index.max_blocks} names, {index.num_expected} expected, "
        f"{index.num_overflowed} dropped for room"
    )


def run_cache_top(connection: Connection, *, once: bool, interval_s: float) -> None:
    """Ask and show again and again. Raises TandemError."""
    environment = read_environment()
    console = _console(open_terminal(environment))
    if once:
        console.print(tenant_table(asyncio.run(_ask(connection, environment))))
        return
    asyncio.run(_watch(connection, environment, console, interval_s))


def run_cache_flush(connection: Connection, *, tenant: str | None, everybody: bool) -> None:
    """Forget. Raises InvalidArgument when it is not said whose, Unavailable when a worker did not answer."""
    if everybody is (tenant is not None):
        raise InvalidArgument(
            "--tenant", "and --all say whose prefixes to forget", remedy="give exactly one of the two"
        )
    environment = read_environment()
    terminal = open_terminal(environment)
    flushed = asyncio.run(_flush(connection, environment, tenant))
    if flushed.num_missed:
        raise Unavailable(
            f"{flushed.num_missed} of {flushed.num_workers + flushed.num_missed} workers did not answer: "
            "what they hold may still be found; the router asks them again until they do",
            reason="FLUSH_INCOMPLETE",
        )
    if flushed.num_pending:
        raise Unavailable(
            f"{flushed.num_workers} workers have forgotten {flushed.num_blocks} blocks, but Redis did not take the "
            f"flush of {flushed.num_pending} of them yet: they repeat it, and take nothing from Redis before",
            reason="FLUSH_INCOMPLETE",
        )
    terminal.say(f"{flushed.num_blocks} blocks on {flushed.num_workers} workers are forgotten")


_PUBLIC = "(public prefixes)"


def worker_table(workers: Sequence[WatchedCache]) -> Table:
    """One row per worker, and their sum."""
    table = Table(title="prefix cache by worker")
    for head in ("worker", "role"):
        table.add_column(head)
    for head in ("blocks", "idle", "pinned", "hit rate", "tokens saved", "evicted", "known", "gaps"):
        table.add_column(head, justify="right")
    for watched in workers:
        numbers = (*_numbers(watched.stats), _known(watched), str(watched.num_gaps))
        table.add_row(escape(watched.worker_id), watched.role.value, *numbers)
    found = tuple(watched.stats for watched in workers if watched.stats is not None)
    for tier, rate in hit_rates(found).items():
        held = sum(each.num_blocks for stats in found for each in stats.tiers if each.tier is tier)
        saved = sum(each.num_hit_tokens for stats in found for each in stats.tiers if each.tier is tier)
        table.add_section()
        table.add_row("all", tier.value, str(held), "", "", f"{rate:.1%}", str(saved), "", "", "")
    return table


def tier_table(workers: Sequence[WatchedCache]) -> Table:
    """One row per worker and tier behind the KV pool."""
    table = Table(title="tiers behind the KV pool")
    for head in ("worker", "tier"):
        table.add_column(head)
    for head in ("blocks", "MiB", "hit rate", "tokens saved", "came in", "went back", "rejected", "not kept"):
        table.add_column(head, justify="right")
    for watched in workers:
        for tier in watched.stats.tiers if watched.stats is not None else ():
            if watched.stats is None or tier.tier is Tier.DEVICE:
                continue
            asked = watched.stats.num_asked_tokens
            rate = f"{tier.num_hit_tokens / asked:.1%}" if asked else "-"
            counts = (tier.num_hit_tokens, tier.num_demoted, tier.num_promoted, tier.num_rejected, tier.num_skipped)
            mebibytes = f"{tier.num_bytes / (1 << 20):.1f}"
            numbers = (str(tier.num_blocks), mebibytes, rate, *map(str, counts))
            table.add_row(escape(watched.worker_id), tier.tier.value, *numbers)
    return table


def tenant_table(status: CacheStatus) -> Group:
    """One row per tenant, those with the most cached tokens first."""
    blocks: Counter[Tenant] = Counter()
    for watched in status.workers:
        for use in watched.stats.tenants if watched.stats is not None else ():
            blocks[use.tenant] += use.num_blocks
    table = Table(title="prefix cache by tenant")
    table.add_column("tenant")
    for head in ("blocks", "requests", "prompt tokens", "cached", "hit rate"):
        table.add_column(head, justify="right")
    known = {usage.tenant: usage for usage in status.tenants}
    for tenant in sorted(blocks.keys() | known.keys(), key=lambda name: (-blocks[name], name)):
        usage = known.get(tenant)
        if usage is None:
            table.add_row(escape(tenant or _PUBLIC), str(blocks[tenant]), "0", "0", "0", "-")
            continue
        asked = usage.cached_tokens + usage.uncached_tokens
        rate = f"{usage.cached_tokens / asked:.1%}" if asked else "-"
        table.add_row(
            escape(tenant), str(blocks[tenant]), str(usage.num_requests), str(asked), str(usage.cached_tokens), rate
        )
    return Group(table, "requests and tokens: this router's, since its start")


def _numbers(stats: WorkerCacheStats | None) -> tuple[str, ...]:
    if stats is None:
        return ("-",) * 6
    rate = f"{stats.num_cached_tokens / stats.num_asked_tokens:.1%}" if stats.num_asked_tokens else "-"
    counts = (stats.num_blocks, stats.num_idle, stats.num_kept)
    return *(str(count) for count in counts), rate, str(stats.num_cached_tokens), str(stats.num_evicted)


def _known(watched: WatchedCache) -> str:
    if watched.stale_s is None:
        return "no"
    behind = f", {watched.num_behind} behind" if watched.num_behind else ""
    return f"{watched.stale_s:.1f} s ago{behind}" + ("" if watched.watching else ", stream down")


def _console(terminal: Terminal) -> Console:
    return Console(file=terminal.out, no_color=terminal.no_color, width=None if terminal.out.isatty() else 140)


async def _ask(connection: Connection, environment: Environment) -> CacheStatus:
    async with connection.internal_client(environment, timeout_s=_TIMEOUT_S) as client:
        return await client.cache_status()


async def _flush(connection: Connection, environment: Environment, tenant: str | None) -> Flushed:
    async with connection.internal_client(environment, timeout_s=_TIMEOUT_S) as client:
        return await client.flush_cache_of(tenant)


async def _watch(connection: Connection, environment: Environment, console: Console, interval_s: float) -> None:
    async with connection.internal_client(environment, timeout_s=_TIMEOUT_S) as client:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                live.update(tenant_table(await client.cache_status()), refresh=True)
                await asyncio.sleep(interval_s)
