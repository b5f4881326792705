"""Routers that agree on prefill workers through a real Redis: they split evenly, and lose nothing when it dies."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from statistics import median
from typing import Any

import pytest

from tandem.core.clock import MonotonicClock
from tandem.core.ids import RequestId
from tandem.core.latency import LatencyCoefficients
from tandem.core.messages import StartPrefill
from tandem.core.types import GenerationTask, Outcome
from tandem.prefix_cache.remote.breaker import BreakerPolicy
from tandem.prefix_cache.remote.gate import GatePolicy
from tandem.router.candidates import Candidate
from tandem.router.live import DispatcherPolicy
from tandem.router.observer import SilentObserver
from tandem.router.placement import PlacementMode, PlacementPolicy
from tandem.router.redis_reserver import RedisReserver
from tandem.router.sharing import SharingMode, SharingPolicy, Ticket
from tests.fakes.redis_server import RedisServer, redis_server
from tests.fakes.router_cluster import until
from tests.unit.router.builders import D, key
from tests.unit.router.sharing_world import finish, prefilled
from tests.unit.router.world import Sink, World

PREFILLS = tuple(key(f"prefill-{n}") for n in range(8))
PATIENT = GatePolicy(timeout_s=2.0)  # with a busy machine
TICK_S = 0.005


class Outcomes(SilentObserver):
    """What came of each ask."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, float]] = []

    def reserved(self, task: GenerationTask, *, outcome: str, waited_s: float) -> None:
        self.seen.append((outcome, waited_s))


class SharingRouter:
    """A dispatcher on real time, with a real way to Redis."""

    def __init__(self, url: str, policy: GatePolicy, sharing: SharingPolicy) -> None:
        self.outcomes = Outcomes()
        self.reserver = RedisReserver(url, namespace="t", policy=policy, clock=MonotonicClock())
        placement = PlacementPolicy(mode=PlacementMode.SPLIT, tie_share=None, look_ahead_s=100.0)
        self.world = World(
            *PREFILLS,
            D,
            max_sequences=1000,
            policy=DispatcherPolicy(placement=placement, sharing=sharing),
            reserver=self.reserver,
            observer=self.outcomes,
        )
        self.world.clock.time_s = time.monotonic()
        for record in self.world.dispatcher.fleet.records():
            record.profile(LatencyCoefficients(prefill=(0.1, 0.0, 0.0), step=(0.02, 0.0, 0.0), transfer=(0.0, 0.0)))

    @property
    def went(self) -> list[str]:
        return [worker for worker, _ in prefilled(self.world)]

    async def tick(self) -> None:
        while True:
            self.world.clock.time_s = time.monotonic()
            for record in self.world.dispatcher.fleet.records():
                record.pulse.heard(self.world.clock.time_s)
            self.world.dispatcher.step()
            await asyncio.sleep(TICK_S)


@asynccontextmanager
async def routers(
    server: RedisServer,
    num: int,
    *,
    policy: GatePolicy = PATIENT,
    mode: SharingMode = SharingMode.ON,
    max_wait_s: float = 10.0,
) -> AsyncIterator[list[SharingRouter]]:
    made = [SharingRouter(server.url, policy, SharingPolicy(mode=mode, max_wait_s=max_wait_s)) for _ in range(num)]
    ticks = [asyncio.create_task(router.tick()) for router in made]
    try:
        yield made
    finally:
        for task in ticks:
            task.cancel()
        await asyncio.gather(*ticks, return_exceptions=True)
        for router in made:
            await router.reserver.close()


@pytest.fixture
def server() -> Any:
    with redis_server("valkey") as running:
        yield running


def reservations(server: RedisServer) -> int:
    admin: Any = server.admin()
    return sum(admin.hlen(name) for name in admin.keys("*:loads"))


async def burst(made: list[SharingRouter], each: int) -> list[int]:
    """All routers place ``each`` requests at the same moment; how many went to each prefill worker."""
    for index, router in enumerate(made):
        for number in range(each):
            router.world.submit(f"{index}-{number}")
    await until(lambda: all(len(router.went) == each for router in made))
    went = [worker for router in made for worker in router.went]
    return [went.count(worker.worker_id) for worker in PREFILLS]


async def test_a_burst_at_several_routers_is_split_evenly(server: RedisServer) -> None:
    async with routers(server, 4) as made:
        split = await burst(made, 6)
        assert sum(split) == 24
        assert max(split) - min(split) <= 1, split
        assert {outcome for router in made for outcome, _ in router.outcomes.seen} == {"kept", "moved"}
        assert reservations(server) == 24
        for index, router in enumerate(made):
            for number, (worker, name) in enumerate(prefilled(router.world)):
                if number % 2:
                    router.world.dispatcher.cancel(router.world.tasks(StartPrefill)[number].request_id)
                else:
                    finish(router.world, name, next(p for p in PREFILLS if p.worker_id == worker))
            router.world.assert_empty()
            assert len(router.went) == 6, index
        await until(lambda: reservations(server) == 0)


async def test_without_sharing_they_all_begin_with_the_same_worker(server: RedisServer) -> None:
    async with routers(server, 4, mode=SharingMode.OFF) as made:
        assert await burst(made, 6) == [4] * 6 + [0] * 2
        assert server.admin().keys("*") == []


async def test_one_router_of_two_that_asks_sees_what_the_other_has(server: RedisServer) -> None:
    """One after the other: no two are under way at once, and still the second knows of the first's work."""
    async with routers(server, 2) as made:
        assert await burst(made[:1], 3) == [1, 1, 1, 0, 0, 0, 0, 0]
        for number in range(5):
            made[1].world.submit(f"later-{number}")
        await until(lambda: len(made[1].went) == 5)
        assert sorted(made[1].went) == [f"prefill-{n}" for n in range(3, 8)]


@pytest.mark.parametrize("trouble", [signal.SIGKILL, signal.SIGSTOP])
async def test_redis_in_trouble_costs_at_most_the_bound_and_then_nothing(
    server: RedisServer, trouble: signal.Signals
) -> None:
    """Everybody is served; who asks while the breaker is closed waits for one time-out at most."""
    strict = GatePolicy(timeout_s=0.020, breaker=BreakerPolicy(max_failures=3, open_s=60.0))
    async with routers(server, 2, policy=strict, max_wait_s=0.025) as made:
        sinks: list[Sink] = []
        for number in range(60):
            if number == 20:
                os.kill(server.process.pid, trouble)
            for index, router in enumerate(made):
                sinks.append(router.world.submit(f"{index}-{number}"))
            await asyncio.sleep(0.01)
        await until(lambda: all(len(router.went) == 60 for router in made))
        after = [seen for router in made for seen in router.outcomes.seen[-20:]]
        assert sum(outcome == "breaker_open" for outcome, _ in after) >= 36, "now and then the machine is busy"
        assert median(waited_s for _, waited_s in after) < 0.01, "an open breaker costs nothing"
        waits_s = [waited_s for router in made for _, waited_s in router.outcomes.seen]
        assert sum(waited_s > 0.025 + 2 * TICK_S for waited_s in waits_s) <= 12, "the bound, on a machine that is busy"
        for router in made:
            for worker, name in prefilled(router.world):
                finish(router.world, name, next(p for p in PREFILLS if p.worker_id == worker))
            router.world.assert_empty()
        assert {sink.ends[0].outcome for sink in sinks} == {Outcome.OK}
        if trouble is signal.SIGSTOP:
            os.kill(server.process.pid, signal.SIGCONT)


async def test_an_answer_that_comes_too_late_leaves_no_reservation(server: RedisServer) -> None:
    """The script has run, but nobody waits for its answer any more: the reservation is given back on every worker."""
    hasty = GatePolicy(timeout_s=0.05, breaker=BreakerPolicy(max_failures=1000))
    async with routers(server, 1, policy=hasty, max_wait_s=1.0) as (router,):
        router.world.submit("first")
        await until(lambda: len(router.went) == 1)
        os.kill(server.process.pid, signal.SIGSTOP)
        router.world.submit("late")
        await until(lambda: len(router.went) == 2)
        assert router.outcomes.seen[-1][0] in ("late", "unreachable")
        os.kill(server.process.pid, signal.SIGCONT)
        await asyncio.sleep(0.2)
        router.world.dispatcher.cancel(router.world.tasks(StartPrefill)[0].request_id)
        await until(lambda: reservations(server) == 0, timeout_s=5.0)


async def test_a_release_that_overtakes_its_ask_is_not_lost(server: RedisServer) -> None:
    """It was told without an answer, and is over before Redis has heard of it."""
    async with routers(server, 1) as (router,):
        admin: Any = server.admin()
        os.kill(server.process.pid, signal.SIGSTOP)
        ticket = Ticket(RequestId("r"), 1)
        router.reserver.tell(ticket, Candidate(worker=PREFILLS[0], base_s=0.0, queued_s=0.0, load_s=1.0))
        await asyncio.sleep(0.05)
        router.reserver.release(ticket, PREFILLS[0])
        os.kill(server.process.pid, signal.SIGCONT)
        await until(lambda: not router.reserver._tasks)
        assert admin.info("commandstats")["cmdstat_eval"]["calls"] == 1, "it was reserved"
        assert [admin.hlen(name) for name in admin.keys("*:loads")] == []


async def test_a_large_burst_opens_few_connections(server: RedisServer) -> None:
    """A connection costs the router's loop more than an answer does."""
    async with routers(server, 1) as (router,):
        for number in range(60):
            router.world.submit(f"r{number}")
        await until(lambda: len(router.went) == 60)
        assert {outcome for outcome, _ in router.outcomes.seen} <= {"kept", "moved"}
        admin: Any = server.admin()
        assert admin.info("clients")["connected_clients"] <= 12


async def test_a_release_waits_for_its_turn_behind_asks(server: RedisServer) -> None:
    """One call at a time, and that one is an ask to a server that stands still for a moment."""
    async with routers(server, 1, policy=GatePolicy(timeout_s=2.0, max_in_flight=1)) as (router,):
        router.world.submit("a")
        await until(lambda: len(router.went) == 1)
        os.kill(server.process.pid, signal.SIGSTOP)
        router.world.submit("b")
        await asyncio.sleep(0.02)
        router.world.dispatcher.cancel(router.world.tasks(StartPrefill)[0].request_id)
        await asyncio.sleep(0.05)
        os.kill(server.process.pid, signal.SIGCONT)
        await until(lambda: len(router.went) == 2)
        await until(lambda: reservations(server) == 1)
        assert router.outcomes.seen[-1][0] in ("kept", "moved")


async def test_closing_leaves_nothing_running(server: RedisServer) -> None:
    async with routers(server, 1) as (router,):
        for number in range(10):
            router.world.submit(f"r{number}")
    assert not router.reserver._tasks
