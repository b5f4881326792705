"""Do the tokens of the prefill/decode path equal a single process's, exactly?

Greedy answers are compared with `transformers` `generate` on the same folder, sampled ones with our own engine in one
process. float32 on the CPU. Tiny random models of nine architectures run as a prefill and a decode worker in this
process (real engines, real hand-over over shm and tcp); the real SmolLM2 runs as real processes: router, prefill
worker, decode worker, asked through the SDK. Prompt lengths lie around the edges of blocks (16) and prefill chunks (32
for the tiny models, 512 for the real one); requests run alone and in mixed batches; n goes from 1 to 4.

One case is one request with all its sequences. Run: ``python -m benchmarks.equality --json``. With ``--cache`` it runs
the cases with prefix caches on instead: see `benchmarks.equality_cache_run`.
"""

import asyncio
from dataclasses import asdict, dataclass

from benchmarks import equality_cache_run, equality_real, equality_tiny
from benchmarks.report import finish, parse, say
from tests.fakes.tiny_models import ARCHITECTURES
from tests.fakes.worker_pair import Transport

TRANSPORTS: tuple[Transport, ...] = ("shm", "tcp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Result of one model over one transport."""

    model: str
    transport: str
    cases: int
    mismatches: int
    handed_over: int
    first_mismatch: str = ""


async def run(*, quick: bool) -> list[Group]:
    """Run all groups. ``quick`` takes every model, fewer lengths, and leaves the real model out."""
    groups: list[Group] = []
    for architecture in ARCHITECTURES:
        for transport in TRANSPORTS:
            counts = await equality_tiny.compare(architecture, transport, quick=quick)
            groups.append(Group(model=f"tiny {architecture}", transport=transport, **asdict(counts)))
            say(f"{groups[-1]}")
    if not quick:
        real = await asyncio.to_thread(equality_real.RealModel)
        for transport in TRANSPORTS:
            counts = await equality_real.compare(real, transport)
            groups.append(Group(model="smollm2-135m-instruct", transport=transport, **asdict(counts)))
            say(f"{groups[-1]}")
    return groups


def summarise(groups: list[Group]) -> dict[str, int]:
    """Return the numbers that count."""
    return {
        "architectures": len({group.model for group in groups}),
        "cases": sum(group.cases for group in groups),
        "mismatches": sum(group.mismatches for group in groups),
        # A case that ends at its first token needs no hand-over; nearly all others must have had one.
        "handed_over": sum(group.handed_over for group in groups),
    }


def main() -> None:
    """Run and print."""
    options = parse(__doc__, "quick", "cache")
    if options.cache:
        found = asyncio.run(equality_cache_run.run(quick=options.quick))
        details = equality_cache_run.details_of(found)
        finish(options, equality_cache_run.summarise(found), method=equality_cache_run.METHOD, details=details)
        return
    groups = asyncio.run(run(quick=options.quick))
    finish(options, summarise(groups), method=__doc__ or "", details={"groups": [asdict(group) for group in groups]})


if __name__ == "__main__":
    main()
