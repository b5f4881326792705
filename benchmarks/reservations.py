"""What the routers' shared reservations cost a placement and what they are good for. One JSON object at the end.

Routers' own parts over a Valkey of its own on loopback: each asks, as the dispatcher does, at random moments; then all
of them ask for many requests at the same moment. ``uneven_*`` is the largest difference between two equal prefill
workers when routers place a burst together, each by its own estimate (of equals, two are drawn) or with the
reservations.
"""

import asyncio
import random
import statistics
import time
from collections import Counter
from functools import partial
from typing import Any

from benchmarks.report import finish, parse, say
from tandem.core.clock import MonotonicClock
from tandem.core.ids import Epoch, RequestId, WorkerId
from tandem.core.latency import LatencyCoefficients
from tandem.core.messages import StartPrefill
from tandem.prefix_cache.remote.gate import GatePolicy
from tandem.router.actions import WorkerKey
from tandem.router.candidates import Candidate
from tandem.router.live import DispatcherPolicy
from tandem.router.placement import PlacementMode, PlacementPolicy
from tandem.router.redis_reserver import RedisReserver
from tandem.router.sharing import Answer, SharingMode, SharingPolicy, Ticket
from tests.fakes.redis_server import redis_server
from tests.fakes.router_cluster import until
from tests.unit.router.builders import D
from tests.unit.router.world import World

_ROUTERS, _PER_S, _BURST = 3, 100.0, 16
_WORKERS = tuple(WorkerKey(worker_id=WorkerId(f"prefill-{n}"), epoch=Epoch(1)) for n in range(8))
_CANDIDATES = tuple(Candidate(worker=worker, base_s=0.1, queued_s=0.0, load_s=0.1) for worker in _WORKERS)


class _Asking:
    """One router's asks, and how long each was waited for."""

    def __init__(self, url: str) -> None:
        self.reserver = RedisReserver(url, namespace="bench", policy=GatePolicy(), clock=MonotonicClock())
        self.waits_s: list[float] = []
        self.missed: Counter[str] = Counter()
        self._number = 0

    async def ask(self) -> None:
        """Wait for one answer, and release it a moment later."""
        self._number += 1
        ticket = Ticket(RequestId(str(self._number)), self._number)
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        began_s = time.perf_counter()
        self.reserver.ask(ticket, _CANDIDATES, lambda _, answer: answered.set_result(answer))
        answer = await answered
        self.waits_s.append(time.perf_counter() - began_s)
        if answer.worker is None:
            self.missed[answer.missed] += 1
            return
        await asyncio.sleep(0.05)
        self.reserver.release(ticket, answer.worker)


async def _measure(url: str, seconds: float) -> dict[str, Any]:
    routers = [_Asking(url) for _ in range(_ROUTERS)]
    for router in routers:
        await router.ask()  # the first one connects
        router.waits_s.clear()
    draw, end_s = random.Random(4), time.monotonic() + seconds
    async with asyncio.TaskGroup() as group:
        while time.monotonic() < end_s:
            group.create_task(draw.choice(routers).ask())
            await asyncio.sleep(draw.expovariate(_ROUTERS * _PER_S))
    steady = _times(routers)
    for _ in range(20):
        await asyncio.gather(*(router.ask() for router in routers for _ in range(_BURST)))
    burst = _times(routers)
    for router in routers:
        await router.reserver.close()
    return {"steady": steady, "burst": burst}


def _times(routers: list[_Asking]) -> dict[str, Any]:
    waits_ms = sorted(1e3 * wait_s for router in routers for wait_s in router.waits_s)
    missed = sum((router.missed for router in routers), Counter())
    for router in routers:
        router.waits_s.clear()
        router.missed.clear()
    percentiles = statistics.quantiles(waits_ms, n=100, method="inclusive")
    return {
        "asked": len(waits_ms),
        "missed": dict(missed),
        "p50_ms": round(percentiles[49], 3),
        "p99_ms": round(percentiles[98], 3),
        "max_ms": round(waits_ms[-1], 3),
    }


async def _uneven(url: str, mode: SharingMode, *, rounds: int) -> float:
    """Mean over ``rounds`` bursts of four requests at each of three routers, on eight idle workers."""
    spreads: list[int] = []
    for number in range(rounds):
        # All three have the same moment: no answer is seen before each has asked.
        ways = [
            RedisReserver(url, namespace=f"b{number}", policy=GatePolicy(timeout_s=2.0), clock=MonotonicClock())
            for _ in range(_ROUTERS)
        ]
        placement = PlacementPolicy(mode=PlacementMode.SPLIT, look_ahead_s=10.0)
        policy = DispatcherPolicy(placement=placement, sharing=SharingPolicy(mode=mode))
        worlds = [World(*_WORKERS, D, max_sequences=100, policy=policy, reserver=way) for way in ways]
        for index, world in enumerate(worlds):
            for record in world.dispatcher.fleet.records():
                record.profile(LatencyCoefficients(prefill=(0.1, 0.0, 0.0), step=(0.02, 0.0, 0.0)))
            for request in range(4):
                world.submit(f"{number}-{index}-{request}")
        await until(partial(_all_sent, worlds))
        went = Counter(w for world in worlds for w, command in world.sent if isinstance(command, StartPrefill))
        spreads.append(max(went[worker] for worker in _WORKERS) - min(went[worker] for worker in _WORKERS))
        for way in ways:
            await way.close()
    return statistics.mean(spreads)


def _all_sent(worlds: list[World]) -> bool:
    return all(len(world.tasks(StartPrefill)) == 4 for world in worlds)


async def _run(*, quick: bool) -> dict[str, Any]:
    with redis_server("valkey") as server:
        say("waits")
        waits = await _measure(server.url, 2.0 if quick else 20.0)
        say("spreads")
        rounds = 5 if quick else 40
        alone = await _uneven(server.url, SharingMode.OFF, rounds=rounds)
        together = await _uneven(server.url, SharingMode.ON, rounds=rounds)
    return {**waits, "uneven_alone": alone, "uneven_shared": together}


def main() -> None:
    """Measure, and report."""
    options = parse(__doc__, "quick")
    details = asyncio.run(_run(quick=options.quick))
    result = {
        "wait_p50_ms": details["steady"]["p50_ms"],
        "wait_p99_ms": details["steady"]["p99_ms"],
        "burst_wait_p99_ms": details["burst"]["p99_ms"],
        "missed": sum(details["steady"]["missed"].values()),
        "uneven_alone": details["uneven_alone"],
        "uneven_shared": details["uneven_shared"],
    }
    method = f"{_ROUTERS} routers in one process, {_PER_S:.0f} asks/s each, then {_BURST} each at the same moment"
    finish(options, result, method=method, details=details)


if __name__ == "__main__":
    main()
