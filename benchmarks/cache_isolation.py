"""Do tenants' caches keep apart? Look-ups of another's prompts, and what one tenant's flood costs another.

Look-ups: one tenant's prompts are stored in the router's real index under their real names; another tenant looks the
same prompts up. As a control the owner looks them up too: all must be found, else the zero means nothing. Flood: on a
real engine over the fake model, B asks its prompts in turn, once alone and once with ten new prompts of A after each.
Not shown here: times to first token of a running cluster.
"""

import random
from collections.abc import Sequence
from typing import Any

from benchmarks.report import finish, parse, say
from tandem.core.ids import Epoch, Tenant, WorkerId
from tandem.core.messages import PrefillDone
from tandem.prefix_cache.events import Stored, Tier
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


def hit_rate(num_rounds: int, num_flood: int, draw: random.Random) -> float:
    """Share of B's prompt tokens that were cached, from its second round on."""
    engine = make_engine(128, cache=make_cache())
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
                engine.start_local(make_task(name, prompt=flood, tenant=TENANTS[0], max_tokens=2))
                drive(engine)
    return hits / asked


def measure(num_lookups: int, num_rounds: int) -> dict[str, Any]:
    """Return the figures."""
    looked = look_up(num_lookups, random.Random(1))
    say(f"look-ups: {looked}")
    alone, flooded = (hit_rate(num_rounds, flood, random.Random(2)) for flood in (0, FLOOD))
    say(f"hit rate of b: {alone:.3f} alone, {flooded:.3f} flooded")
    return looked | {
        "hit_rate_alone": round(alone, 4),
        "hit_rate_flooded": round(flooded, 4),
        "flood_points_lost": round(100 * (alone - flooded), 2),
    }


def main() -> None:
    """Measure and print."""
    options = parse(__doc__, "quick")
    finish(options, measure(*((2000, 4) if options.quick else (100_000, 30))), method=METHOD, details={})


if __name__ == "__main__":
    main()
