"""Do tenants' caches keep apart? Look-ups of another's prompts, times to first token, and another's flood.

- Look-ups: one tenant's prompts are stored in the router's real index under their real names; another tenant looks the
  same prompts up (``cross_hits``). As a control the owner looks them up too (``own_hits``): all must be found, else the
  zero means nothing.
- Timing, in a real cluster (`benchmarks.isolation_timing`): a tenant asks prompts that the other has just asked, and
  prompts that nobody asked, in drawn order. The two distributions of TTFT are compared (two-sample Kolmogorov-Smirnov,
  ``ttft_ks_p``: above 0.01 they can't be told apart). As a control, prompts that the tenant itself has asked before:
  that difference must show (``ttft_own_ks_p`` near 0).
- Flood: on a real engine over the fake model, B asks its prompts in turn, once alone and once with ten new prompts of A
  after each, under each eviction policy; the worst counts. The same in the real cluster, with eight. As a control, the
  same flood out of B's own account, under LRU (``flood_points_lost_own``): it must cost nearly everything.

Run: ``python -m benchmarks.cache_isolation --json [--quick]``.
"""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

from benchmarks import isolation_timing
from benchmarks.report import finish, parse, say
from tandem.core.ids import Epoch, Tenant, WorkerId
from tandem.core.messages import PrefillDone
from tandem.prefix_cache.events import Stored, Tier
from tandem.prefix_cache.eviction.choice import EvictionName
from tandem.prefix_cache.index import CacheHolder, PrefixIndex
from tandem.prefix_cache.keys import BlockKey, PrefixKeyer, PrefixSpace
from tests.fakes.engine_driver import drive, make_cache, make_engine, make_task

METHOD = __doc__ or ""
TENANTS = (Tenant("a"), Tenant("b"))
FLOOD = 10


def found(index: PrefixIndex, keys: Sequence[BlockKey]) -> bool:
    """Whether anybody holds the beginning."""
    return any(match.num_blocks > 0 for match in index.match(keys).values())


def look_up(num_lookups: int, draw: random.Random) -> dict[str, int]:
    """Return how many look-ups of the other's and of one's own prompts found something."""
    secret = draw.randbytes(32)
    owner, other = (
        PrefixKeyer(secret, PrefixSpace(tenant=tenant, layout_fingerprint="bench", block_size=16)) for tenant in TENANTS
    )
    index = PrefixIndex()
    holder = CacheHolder(WorkerId("prefill-0"), Epoch(1))
    prompts = [[draw.randrange(50_000) for _ in range(draw.randrange(16, 256))] for _ in range(num_lookups // 100)]
    for prompt in prompts:
        index.apply(holder, Stored(keys=owner.keys(prompt), tier=Tier.DEVICE))
    cross = own = 0
    for number in range(num_lookups):
        prompt = prompts[number % len(prompts)]
        cross += found(index, other.keys(prompt))
        own += found(index, owner.keys(prompt))
    return {"lookups": num_lookups, "cross_hits": cross, "own_hits": own}


def hit_rate(num_rounds: int, num_flood: int, eviction: EvictionName, *, flooder: Tenant = TENANTS[0]) -> float:
    """Share of B's prompt tokens that were cached, from its second round on."""
    draw = random.Random(2)
    engine = make_engine(128, cache=make_cache(eviction=eviction))
    prompts = [[draw.randrange(4, 250) for _ in range(41)] for _ in range(4)]
    hits = asked = 0
    for number in range(num_rounds):
        for which, prompt in enumerate(prompts):
            engine.start_local(make_task(f"b{number}-{which}", prompt=prompt, tenant=TENANTS[1], max_tokens=2))
            done = [event for event in drive(engine).events if isinstance(event, PrefillDone)]
            if number:
                hits += sum(event.num_cached_tokens for event in done)
                asked += len(prompt)
            for extra in range(num_flood):
                flood = [draw.randrange(4, 250) for _ in range(61)]
                name = f"a{number}-{which}-{extra}"
                engine.start_local(make_task(name, prompt=flood, tenant=flooder, max_tokens=2))
                drive(engine)
    return hits / asked


def measure(
    num_lookups: int, num_rounds: int, policies: Sequence[EvictionName] = tuple(EvictionName)
) -> dict[str, Any]:
    """Return the figures of index and engine."""
    looked = look_up(num_lookups, random.Random(1))
    say(f"look-ups: {looked}")
    alone = {policy.value: hit_rate(num_rounds, 0, policy) for policy in policies}
    flooded = {policy.value: hit_rate(num_rounds, FLOOD, policy) for policy in policies}
    own = hit_rate(num_rounds, FLOOD, EvictionName.LRU, flooder=TENANTS[1])
    say(f"hit rate of b: alone {alone}, flooded {flooded}, flooded by itself {own:.3f}")
    return looked | {
        "hit_rate_alone": round(min(alone.values()), 4),
        "hit_rate_flooded": round(min(flooded.values()), 4),
        "flood_points_lost": round(100 * max(alone[policy] - flooded[policy] for policy in alone), 2),
        "flood_points_lost_own": round(100 * (alone[EvictionName.LRU.value] - own), 2),
    }


def main() -> None:
    """Measure and print."""
    options = parse(__doc__, "quick")
    num_lookups, num_rounds, num_prompts, cluster_rounds = (2000, 4, 40, 3) if options.quick else (100_000, 30, 400, 8)
    result = measure(num_lookups, num_rounds) | asyncio.run(isolation_timing.measure(num_prompts, cluster_rounds))
    finish(options, result, method=METHOD, details={})


if __name__ == "__main__":
    main()
