"""How fast is the router's prefix index: look-ups of long prompts, events, memory, ended workers, at full size?

1 M blocks on 64 workers. Each block is held by 1 to 64 of them, as after months of traffic with shared beginnings: a
block at depth d of a prompt is held by 64 / (1 + d / 32) workers.
"""

import gc
import random
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.report import finish, parse, say
from tandem.core.ids import Epoch, Tenant, WorkerId
from tandem.prefix_cache.events import Removed, Stored, Tier
from tandem.prefix_cache.index import CacheHolder, PrefixIndex
from tandem.prefix_cache.keys import BlockKey, PrefixKeyer, PrefixSpace

NUM_BLOCKS = 1_000_000
NUM_WORKERS = 64
BLOCK_SIZE = 16
PROMPT_TOKENS = 32_768
PROMPT_BLOCKS = PROMPT_TOKENS // BLOCK_SIZE
METHOD = __doc__ or ""


@dataclass(frozen=True, slots=True)
class Corpus:
    """Prompts of 2048 blocks, and how deep each worker holds each."""

    prompts: list[tuple[BlockKey, ...]]
    depths: list[list[int]]


def make_corpus(num_blocks: int, draw: random.Random) -> Corpus:
    """Return prompts that have ``num_blocks`` names in all."""
    space = PrefixSpace(tenant=Tenant("bench"), layout_fingerprint="bench", block_size=BLOCK_SIZE)
    keyer = PrefixKeyer(draw.randbytes(32), space)
    prompts, depths = [], []
    for _ in range(num_blocks // PROMPT_BLOCKS):
        prompts.append(keyer.keys([draw.randrange(50_000) for _ in range(PROMPT_TOKENS)]))
        runs = [min(int(32 * (NUM_WORKERS / (1 + rank) - 1)), PROMPT_BLOCKS) for rank in range(NUM_WORKERS)]
        runs[0] = PROMPT_BLOCKS  # somebody holds all of it, so that every name is stored
        draw.shuffle(runs)
        depths.append(runs)
    return Corpus(prompts, depths)


def holders() -> list[CacheHolder]:
    """The workers."""
    return [CacheHolder(WorkerId(f"prefill-{number}"), Epoch(1)) for number in range(NUM_WORKERS)]


def fill(index: PrefixIndex, corpus: Corpus) -> int:
    """Store everything, in events of at most 64 blocks; return the number of (block, worker) pairs."""
    num_pairs = 0
    for worker, holder in enumerate(holders()):
        for prompt, depths in zip(corpus.prompts, corpus.depths, strict=True):
            for start in range(0, depths[worker], 64):
                keys = prompt[start : min(start + 64, depths[worker])]
                index.apply(holder, Stored(keys=keys, tier=Tier.DEVICE))
                num_pairs += len(keys)
    return num_pairs


def measure_lookups(index: PrefixIndex, corpus: Corpus, draw: random.Random, num_lookups: int) -> list[float]:
    """Seconds of each look-up of a 32 k-token prompt whose names are known; answers are checked against the corpus."""
    known = dict(zip(holders(), range(NUM_WORKERS), strict=True))
    times = []
    for _ in range(num_lookups):
        which = draw.randrange(len(corpus.prompts))
        prompt = corpus.prompts[which]
        began = time.perf_counter()
        matches = index.match(prompt)
        times.append(time.perf_counter() - began)
        runs = {known[holder]: match.num_blocks for holder, match in matches.items()}
        wanted = {worker: depth for worker, depth in enumerate(corpus.depths[which]) if depth}
        if runs != wanted:
            raise AssertionError(f"wrong match of prompt {which}")
    return sorted(times)


def measure_events(index: PrefixIndex, corpus: Corpus, draw: random.Random, num_events: int) -> float:
    """Blocks per second of removals and stores in events of 16 blocks, on the full index."""
    workers = holders()
    events = []
    for _ in range(num_events):
        which, worker = draw.randrange(len(corpus.prompts)), draw.randrange(NUM_WORKERS)
        depth = corpus.depths[which][worker]
        keys = corpus.prompts[which][max(depth - 16, 0) : depth]
        if keys:
            events.append((workers[worker], keys))
    num_blocks = 2 * sum(len(keys) for _, keys in events)
    began = time.perf_counter()
    for holder, keys in events:
        index.apply(holder, Removed(keys=keys, tier=Tier.DEVICE))
        index.apply(holder, Stored(keys=keys, tier=Tier.DEVICE))
    return num_blocks / (time.perf_counter() - began)


def longest_sweep_ms(index: PrefixIndex) -> float:
    """Longest pause that forgetting one worker causes in the router's loop."""
    longest = 0.0
    began = time.perf_counter()
    index.forget(holders()[0])
    more = True
    while more:
        more = index.sweep()
        now = time.perf_counter()
        longest, began = max(longest, now - began), now
    return 1e3 * longest


def timed(call: Callable[[], Any]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def rss_bytes() -> int:
    """Most memory this process has had."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Measure and print."""
    options = parse(__doc__, "quick")
    draw = random.Random(1)
    num_blocks = NUM_BLOCKS // 10 if options.quick else NUM_BLOCKS
    say(f"naming {num_blocks} blocks")
    corpus = make_corpus(num_blocks, draw)
    gc.collect()
    before = rss_bytes()
    index = PrefixIndex(max_blocks=2 * NUM_BLOCKS)
    say(f"filling an index for {NUM_WORKERS} workers")
    began = time.perf_counter()
    num_pairs = fill(index, corpus)
    fill_s = time.perf_counter() - began
    # Names are shared with the corpus here; a router has them for the index alone.
    index_bytes = rss_bytes() - before + len(index) * len(corpus.prompts[0][0]) + len(index) * 33
    say("looking up")
    times = measure_lookups(index, corpus, draw, 500 if options.quick else 5000)
    say("applying events")
    events_per_s = measure_events(index, corpus, draw, 2000 if options.quick else 20_000)
    keyer = PrefixKeyer(
        draw.randbytes(32), PrefixSpace(tenant=Tenant("bench"), layout_fingerprint="bench", block_size=BLOCK_SIZE)
    )
    tokens = [draw.randrange(50_000) for _ in range(PROMPT_TOKENS)]
    name_s = sorted(timed(lambda: keyer.keys(tokens)) for _ in range(50))
    p99 = times[int(0.99 * len(times))]
    result = {
        "lookups_per_s": round(len(times) / sum(times)),
        "lookup_32k_p99_ms": round(1e3 * p99, 3),
        "events_per_s": round(events_per_s),
        "bytes_per_block": round(index_bytes / len(index)),
    }
    details = {
        "blocks": len(index),
        "workers": NUM_WORKERS,
        "block_worker_pairs": num_pairs,
        "fill_blocks_per_s": round(num_pairs / fill_s),
        "lookup_32k_p50_ms": round(1e3 * times[len(times) // 2], 3),
        "naming_32k_tokens_p50_ms": round(1e3 * name_s[len(name_s) // 2], 3),
        "longest_pause_when_a_worker_ends_ms": round(longest_sweep_ms(index), 2),
    }
    finish(options, result, method=METHOD, details=details)


if __name__ == "__main__":
    main()
