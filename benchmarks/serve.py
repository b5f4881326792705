"""What does a user of the real model see under load: prefill/decode split, and aggregated workers?

Open loop: requests arrive at Poisson times whether or not earlier ones are done. Three clusters run at the same time on
this machine, and rounds of the same trace go to one after the other in turn, so that a busy neighbour hits all alike:

- ``pd_1p1d``: one prefill and one decode worker, every request split;
- ``aggregated_1``: one worker that prefills (in chunks, between decode steps) and decodes;
- ``aggregated_2``: two of those, the same number of cores as ``pd_1p1d``.

One thread per worker. TTFT, TPOT (time per output token after the first) and ITL (gap between two deltas of a stream)
are what the client measures. Run: ``python -m benchmarks.serve --json [--quick]``.
"""

import asyncio
import contextlib
from typing import Any

from benchmarks.cluster import cluster_config, prepare_builtin, running_cluster
from benchmarks.report import finish, parse, say
from benchmarks.serve_load import Load, Sample, Trace, make_trace, play
from benchmarks.serve_stats import summarise
from tandem.client import AsyncClient
from tandem.cluster.config.model import ClusterConfig

ROUNDS, QUICK_ROUNDS = 5, 2
LOAD = Load(rate_per_s=0.8, duration_s=40.0)
QUICK_LOAD = Load(rate_per_s=0.8, duration_s=15.0)


def arms() -> dict[str, ClusterConfig]:
    """Return the configuration of each arm."""
    return {
        "pd_1p1d": cluster_config(router={"placement": {"mode": "split"}}),
        "aggregated_1": _aggregated(1),
        "aggregated_2": _aggregated(2),
    }


def _aggregated(replicas: int) -> ClusterConfig:
    return cluster_config(
        router={"placement": {"mode": "aggregated"}},
        pools={"prefill": {"replicas": 0}, "decode": {"replicas": replicas}},
    )


async def run(*, rounds: int, load: Load) -> dict[str, list[Sample]]:
    """Play ``rounds`` traces on every arm in turn; return all samples by arm."""
    model = prepare_builtin()
    samples: dict[str, list[Sample]] = {name: [] for name in arms()}
    async with contextlib.AsyncExitStack() as stack:
        clients: dict[str, AsyncClient] = {}
        for name, config in arms().items():
            say(f"starting {name}")
            address = await stack.enter_async_context(running_cluster(config, model))
            clients[name] = await stack.enter_async_context(AsyncClient(address, timeout_s=300.0, retries=0))
            await clients[name].wait_until_ready(60.0)
        for client in clients.values():  # the first request of a process is not what a user sees all day
            await play(client, Trace(requests=make_trace(load, seed=99).requests[:1]))
        for number in range(rounds):
            trace = make_trace(load, seed=number)
            for name, client in clients.items():
                say(f"round {number + 1} of {rounds}: {name}, {len(trace.requests)} requests")
                samples[name] += await play(client, trace)
    return samples


def main() -> None:
    """Run and print."""
    options = parse(__doc__, "quick")
    rounds, load = (QUICK_ROUNDS, QUICK_LOAD) if options.quick else (ROUNDS, LOAD)
    samples = asyncio.run(run(rounds=rounds, load=load))
    figures: dict[str, Any] = {name: summarise(found) for name, found in samples.items()}
    result = {"failures": sum(arm["failures"] for arm in figures.values()), "arms": figures}
    details = {"rounds": rounds, "rate_per_s": load.rate_per_s, "duration_s": load.duration_s}
    finish(options, result, method=__doc__ or "", details=details)


if __name__ == "__main__":
    main()
