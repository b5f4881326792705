"""One fault after another on one Redis, under load all the time, and what each did."""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.redis_fault_kinds import FAULTS, Forged, RedisFault
from benchmarks.redis_load import TwinLoad, Window, percentile_ms, window
from benchmarks.redis_target import RedisTarget
from benchmarks.redis_tier import Asked, TierLoad
from tandem.chaos.cluster import ChaosCluster, ChaosOptions
from tandem.chaos.tagged.settings import TaggedCost
from tandem.core.kv_events import Tier

WITH, WITHOUT = "with redis", "without"
_BACK_WITHIN_S = 15.0
_POLL_S = 0.02
_OPEN_AFTER_S = 1.5  # by then every breaker that opens has opened


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How long things last, and how much load there is."""

    warm_s: float = 8.0
    hold_s: float = 7.0
    quiet_s: float = 5.0
    rate_per_s: float = 8.0
    num_prefill: int = 1  # workers of each cluster; 0 = its one decode worker computes prompts too
    faults: tuple[type[RedisFault], ...] = FAULTS


QUICK_PACE = Pace(warm_s=1.5, hold_s=2.5, quiet_s=0.5, rate_per_s=8.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """When a cell happened, on CLOCK_MONOTONIC, and how long who needed to be back after the fault's end."""

    began_s: float
    ended_s: float
    tier_back_s: float
    registry_back_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Struck:
    """One fault that is over. ``refused``: stored values that the tier looked at and did not take meanwhile."""

    fault: RedisFault
    times: Times
    refused: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What one fault of one server did."""

    name: str
    row: int
    server: str
    evidence: str  # that the fault took effect; "" = it did not
    with_redis: Window
    without: Window
    added_ttft_p99_ms: float
    added_ttft_p99_open_ms: float  # of the requests that began after breakers had opened
    tier_asks: int
    tier_p99_ms: float  # what a look-up and a reservation took
    tier_p99_open_ms: float
    tier_found: int
    forged: int  # values written by the forger
    forged_refused: int
    forged_accepted: int
    tier_back_s: float
    registry_back_s: float


@dataclass(slots=True, kw_only=True)
class Played:
    """All cells of one server, and the sums over the whole run, quiet times too."""

    server: str
    cells: list[Cell] = field(default_factory=list)
    requests: int = 0
    failures: int = 0
    errors: list[str] = field(default_factory=list)
    mismatches: int = 0
    quiet: dict[str, Window] = field(default_factory=dict)
    pooled: dict[str, Window] = field(default_factory=dict)  # all faults together
    workers: dict[str, int] = field(default_factory=dict)  # what the workers' own Redis tier did over the whole run
    tier_asks: int = 0  # the same for the tier
    tier_p99_ms: float = 0.0
    tier_p99_open_ms: float = 0.0
    tier_p99_quiet_ms: float = 0.0  # while nothing was wrong: what a healthy Redis and this machine cost


def options_of(url: str | None, *, num_prefill: int) -> ChaosOptions:
    """Return a small cluster of real processes with the tagged engine, with that Redis or with none."""
    registry = {"embedded": False} if url is None else {"redis_url": url}
    # No host tier in either: what leaves the KV pool goes to Redis at once, or is forgotten.
    cache = {"host": {"enabled": False}, "redis": {"enabled": url is not None}}
    return ChaosOptions(
        num_prefill=num_prefill,
        num_decode=1,
        engine={"num_blocks": 64},
        cost=TaggedCost(prefill_token_s=0.0004, step_s=0.002),
        router={"placement": {"mode": "split" if num_prefill else "aggregated"}},
        cluster={"registry": registry, "prefix_cache": cache},
        event_log=False,
    )


async def play(flavour: str, pace: Pace, *, seed: int = 1) -> Played:
    """Do every fault to a new server of that kind."""
    async with contextlib.AsyncExitStack() as stack:
        target = stack.enter_context(RedisTarget(flavour))
        played = Played(server=target.version())
        arms = {
            name: await stack.enter_async_context(ChaosCluster(options_of(url, num_prefill=pace.num_prefill)))
            for name, url in ((WITH, target.url), (WITHOUT, None))
        }
        load, tier = TwinLoad(arms, rate_per_s=pace.rate_per_s, seed=seed), TierLoad(target.url)
        done: list[Struck] = []
        began_s = time.monotonic()
        async with tier.running(), load.running():
            await asyncio.sleep(pace.warm_s)
            for kind in pace.faults:
                fault, refused = kind(target), tier.state.num_refused
                times = await _one(fault, pace, tier, arms[WITH])
                done.append(Struck(fault=fault, times=times, refused=tier.state.num_refused - refused))
                await asyncio.sleep(pace.quiet_s)
        played.cells = [_cell(flavour, struck, load, tier.asked) for struck in done]
        _sum_up(played, load, [struck.times for struck in done], began_s + pace.warm_s / 2)
        _sum_up_tier(played, tier.asked, [struck.times for struck in done], began_s + pace.warm_s / 2)
        played.workers = await _worker_tiers(arms[WITH])
        played.mismatches = sum(len(cluster.mismatches()) for cluster in arms.values())
        return played


async def _one(fault: RedisFault, pace: Pace, tier: TierLoad, cluster: ChaosCluster) -> Times:
    began_s = time.monotonic()
    await asyncio.to_thread(fault.begin)
    await asyncio.sleep(pace.hold_s / 2)
    await asyncio.to_thread(fault.look)
    await asyncio.sleep(pace.hold_s / 2)
    await _until_a_probe_failed(tier)
    await asyncio.to_thread(fault.end)
    ended_s = time.monotonic()
    tier_back, registry_back = await asyncio.gather(_tier_back(tier, ended_s), _registry_back(fault.target, cluster))
    return Times(
        began_s=began_s,
        ended_s=ended_s,
        tier_back_s=max(tier_back - ended_s, 0.0),
        registry_back_s=max(registry_back - ended_s, 0.0),
    )


async def _until_a_probe_failed(tier: TierLoad) -> None:
    """With a breaker open, wait until it tried and failed again: from then on it takes longest to come back."""
    if "open" not in tier.state.breakers:
        return
    before = tier.state.num_failed
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_BACK_WITHIN_S):
            while tier.state.num_failed == before:  # noqa: ASYNC110 - counted in a process of the tier's own
                await asyncio.sleep(_POLL_S)


async def _tier_back(tier: TierLoad, since_s: float) -> float:
    """Return when asks found, stored and reserved again; the end of the wait if they did not."""
    seen = len(tier.asked)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_BACK_WITHIN_S):
            while True:
                for asked in tier.asked[seen:]:
                    if asked.began_s >= since_s and asked.found and asked.was_stored and asked.was_reserved:
                        return asked.began_s + asked.took_s
                seen = len(tier.asked)
                await asyncio.sleep(_POLL_S)
    return time.monotonic()


async def _registry_back(target: RedisTarget, cluster: ChaosCluster) -> float:
    """Return when every worker is registered; the end of the wait if they were not."""

    def registered() -> int:
        with target.admin() as client:
            return int(client.exists(*(f"tandem:worker:{name}" for name in cluster.worker_ids)))

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_BACK_WITHIN_S):
            while await asyncio.to_thread(registered) < len(cluster.worker_ids):  # noqa: ASYNC110 - Redis tells nobody
                await asyncio.sleep(_POLL_S)
    return time.monotonic()


async def _worker_tiers(cluster: ChaosCluster) -> dict[str, int]:
    """Blocks that went to Redis, came back, and were refused as not what they said; summed over workers."""
    status = await cluster.operator().cache_status()
    stats = [watched.stats for watched in status.workers if watched.stats is not None]
    tiers = [tier for each in stats for tier in each.tiers if tier.tier is Tier.REMOTE]
    return {
        "demoted_blocks": sum(tier.num_demoted for tier in tiers),
        "promoted_blocks": sum(tier.num_promoted for tier in tiers),
        "rejected_blocks": sum(tier.num_rejected for tier in tiers),
        "hit_tokens": sum(tier.num_hit_tokens for tier in tiers),
    }


def _cell(flavour: str, struck: Struck, load: TwinLoad, asked: Sequence[Asked]) -> Cell:
    fault, times = struck.fault, struck.times
    early, late = (times.began_s, times.ended_s), (times.began_s + _OPEN_AFTER_S, times.ended_s)
    both = {name: window(records, *early) for name, records in load.records.items()}
    after = {name: window(records, *late) for name, records in load.records.items()}
    during = [one for one in asked if early[0] <= one.began_s < early[1]]
    return Cell(
        name=fault.name,
        row=fault.row,
        server=flavour,
        evidence=fault.evidence,
        with_redis=both[WITH],
        without=both[WITHOUT],
        added_ttft_p99_ms=round(both[WITH].ttft_p99_ms - both[WITHOUT].ttft_p99_ms, 2),
        added_ttft_p99_open_ms=round(after[WITH].ttft_p99_ms - after[WITHOUT].ttft_p99_ms, 2),
        tier_asks=len(during),
        tier_p99_ms=percentile_ms([one.took_s for one in during], 99),
        tier_p99_open_ms=percentile_ms([one.took_s for one in during if one.began_s >= late[0]], 99),
        tier_found=sum(one.found for one in during),
        forged=fault.num_forged if isinstance(fault, Forged) else 0,
        forged_refused=struck.refused,
        forged_accepted=sum(one.wrong for one in during),
        tier_back_s=round(times.tier_back_s, 3),
        registry_back_s=round(times.registry_back_s, 3),
    )


def _sum_up(played: Played, load: TwinLoad, faults: Sequence[Times], warm_s: float) -> None:
    records = load.records[WITH]
    total = window(records, 0.0, float("inf"))
    played.requests, played.failures = total.requests, total.failures
    played.errors = sorted({f"{r.ending} {r.reason} {r.problem}" for r in records if r.ending != "ok" or r.problem})
    for name, of_arm in load.records.items():
        struck = [r for r in of_arm if any(t.began_s <= r.began_s < t.ended_s for t in faults)]
        names = {id(r) for r in struck}
        quiet = [r for r in of_arm if id(r) not in names and r.began_s >= warm_s]
        played.pooled[name], played.quiet[name] = (window(part, 0.0, float("inf")) for part in (struck, quiet))


def _sum_up_tier(played: Played, asked: Sequence[Asked], faults: Sequence[Times], warm_s: float) -> None:
    struck = [one for one in asked if any(t.began_s <= one.began_s < t.ended_s for t in faults)]
    later = [one for one in asked if any(t.began_s + _OPEN_AFTER_S <= one.began_s < t.ended_s for t in faults)]
    # Only what began some time after a fault's end: breakers close again, and what was lost is stored again.
    around = [(t.began_s, t.ended_s + _BACK_WITHIN_S / 5) for t in faults]
    quiet = [one for one in asked if one.began_s >= warm_s and not any(a <= one.began_s < b for a, b in around)]
    played.tier_asks = len(struck)
    played.tier_p99_ms, played.tier_p99_open_ms, played.tier_p99_quiet_ms = (
        percentile_ms([one.took_s for one in part], 99) for part in (struck, later, quiet)
    )
