"""The scenarios: what is asked of the cluster, and what is done to it meanwhile."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.controller_world.judging import Outcome
from benchmarks.controller_world.load import Phase, specs_of
from benchmarks.controller_world.policies import fixed_policy, slo_policy
from benchmarks.controller_world.world import World
from tandem.chaos.faults.processes import Kill

POINTS = ("c.after_term", "c.after_claim", "c.before_drain", "c.after_drain", "c.before_switch", "c.after_switch")

Deed = Callable[[World], Awaitable[dict[str, Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """The two kinds of load, for a cluster of a certain size."""

    prompts: Phase
    answers: Phase
    mixed: Phase


async def play(
    world: World, name: str, phases: Sequence[Phase], *, seed: int, deed: Deed | None = None, damped: bool = True
) -> Outcome:
    """Send the traffic of ``phases``; ``deed`` is done meanwhile and adds facts."""
    begin_s = time.monotonic()
    sending = asyncio.create_task(world.cluster.run_requests(specs_of(phases, seed=seed)))
    facts: dict[str, Any] = {}
    try:
        if deed is not None:
            facts = await deed(world)
    except BaseException:
        sending.cancel()
        raise
    records = await sending
    end_s = max([record.ended_s or 0.0 for record in records], default=time.monotonic())
    return Outcome(
        name=name,
        begin_s=begin_s,
        seconds=end_s - begin_s,
        records=records,
        rounds=world.rounds.between(begin_s, end_s),
        samples=world.samples.between(begin_s, end_s),
        switched_s=[at_s for at_s, _ in world.samples.switches(begin_s, end_s)],
        phases=phases,
        damped=damped,
        facts=facts,
    )


async def stale(world: World, traffic: Traffic, *, seed: int, cut_s: float, after_s: float) -> Outcome:
    """Load that wants a switch, while no number reaches the controller; then they are back."""
    phase = traffic.answers.times(1.25, 2.0 + cut_s + after_s)

    async def cut(world: World) -> dict[str, Any]:
        await asyncio.sleep(2.0)
        begin_s = time.monotonic()
        await world.cut_metrics(cut_s)
        blind = world.rounds.between(begin_s + 1.0, time.monotonic())
        return {
            "rounds_frozen": sum(one.verdict == "freeze" for one in blind),
            "moves_while_stale": sum(bool(one.move) for one in blind),
        }

    return await play(world, "stale metrics", [phase], seed=seed, deed=cut)


async def worker_loss(world: World, traffic: Traffic, *, seed: int, seconds: float) -> Outcome:
    """kill -9 of a prefill worker, and later of a decode worker, under load; both come back by themselves."""

    async def kill(world: World) -> dict[str, Any]:
        killed, whole_s = [], []
        for pool in ("prefill", "decode"):
            await asyncio.sleep(seconds / 4)
            before = world.samples.seen[-1]
            victim = max(name for name, role in before.roles.items() if role.value == pool)
            begin_s = time.monotonic()
            await asyncio.to_thread(Kill, world.cluster.pid(victim))
            killed.append(f"{victim} ({pool})")
            fell = await world.until_not(before.split, timeout_s=5.0)
            whole = fell and await world.until([before.split], timeout_s=30.0)
            whole_s.append(round(time.monotonic() - begin_s, 1) if whole else None)
        return {"killed": killed, "split_whole_again_s": whole_s}

    return await play(world, "worker loss", [traffic.mixed.lasting(seconds)], seed=seed, deed=kill)


async def killed_controller(
    world: World, traffic: Traffic, *, seed: int, num_workers: int, points: Sequence[str] = POINTS
) -> Outcome:
    """The controller ends at each point of a switch; its next life finishes or undoes what it began."""
    unit = await world.add_controller()
    half = num_workers // 2

    async def kill(world: World) -> dict[str, Any]:
        done: dict[str, float | None] = {}
        points_hit: list[str] = []
        for index, point in enumerate(points):
            prefill = half + 1 if index % 2 == 0 else half
            armed = await asyncio.to_thread(world.desk.arm, unit.name, point, action="exit")
            if point in ("c.after_term", "c.after_claim"):
                unit.kill()  # these are passed when a new life takes over
            await world.apply(fixed_policy(prefill, num_workers - prefill))
            hit = await asyncio.to_thread(armed.wait_hit, 30.0)
            await asyncio.to_thread(armed.disarm)
            points_hit += [point] if hit is not None else []
            begin_s = time.monotonic()
            arrived = hit is not None and await world.until([f"{prefill}:{num_workers - prefill}"], timeout_s=30.0)
            done[point] = round(time.monotonic() - begin_s, 1) if arrived else None
        return {
            "points": list(points),
            "points_hit": points_hit,
            "seconds_to_the_split_after_each_kill": done,
            "controller_deaths": unit.num_deaths,
        }

    seconds = 10.0 * len(points)
    try:
        return await play(
            world, "controller killed", [traffic.mixed.lasting(seconds)], seed=seed, deed=kill, damped=False
        )
    finally:
        await world.end_controllers()


async def two_controllers(world: World, traffic: Traffic, *, seed: int, num_workers: int, seconds: float) -> Outcome:
    """One leads, and stands still in the middle of a switch until another one leads; then it goes on.

    The second one is started only when the first one leads, and the split both are told to have is one that the first
    has not, so that there is a move to stand still in.
    """
    half = num_workers // 2

    async def stall(world: World) -> dict[str, Any]:
        begin_s = time.monotonic()
        first = await world.add_controller("controller-a")
        led = await world.until_told("controller-a", begin_s, timeout_s=20.0)
        began = f"{half}:{num_workers - half}"
        settled = led is not None and await world.until([began], timeout_s=20.0)
        armed = await asyncio.to_thread(world.desk.arm, first.name, "c.before_switch", action="pause", seconds=60.0)
        await world.apply(fixed_policy(half + 1, num_workers - half - 1))
        hit = await asyncio.to_thread(armed.wait_hit, 20.0)
        stood_s = time.monotonic()
        amid = world.samples.seen[-1].split  # one worker is drained, none has switched
        await world.add_controller("controller-b")
        split = f"{half + 1}:{num_workers - half - 1}"
        second = await world.until_told("controller-b", stood_s, timeout_s=20.0)
        arrived = await world.until([split], timeout_s=20.0)
        refused_before = world.refusals_of(led)
        await asyncio.to_thread(armed.release)  # it goes on with its order, which must come to nothing
        await asyncio.sleep(4.0)
        return {
            "first_led": bool(settled),
            "stood_still": hit is not None,
            "split_when_it_stood": amid,
            "other_led": second is not None and led is not None and second > led,
            "split_reached": arrived,
            "orders_refused": world.refusals_of(led) - refused_before,
            "split_stayed": {sample.split for sample in world.samples.seen[-8:]} == {split},
        }

    try:
        await world.apply(fixed_policy(half, num_workers - half))
        return await play(
            world, "two controllers", [traffic.mixed.lasting(seconds)], seed=seed, deed=stall, damped=False
        )
    finally:
        await world.end_controllers()


async def shifts(
    world: World, traffic: Traffic, *, seed: int, seconds: Sequence[float], controlled: bool = True
) -> Outcome:
    """Prompt-heavy, answer-heavy, prompt-heavy."""
    kinds = (traffic.prompts, traffic.answers, traffic.prompts)
    phases = [phase.lasting(length) for phase, length in zip(kinds, seconds, strict=True)]
    name = "prompt-heavy, answer-heavy, prompt-heavy"
    return await play(world, _arm(name, controlled), phases, seed=seed, damped=controlled)


async def square_wave(
    world: World, traffic: Traffic, *, seed: int, half_s: float, halves: int, controlled: bool = True
) -> Outcome:
    """Both kinds in turns, too short to be followed."""
    phases = [(traffic.answers, traffic.prompts)[index % 2].lasting(half_s) for index in range(halves)]
    return await play(world, _arm("square wave", controlled), phases, seed=seed, damped=controlled)


def _arm(name: str, controlled: bool) -> str:
    return name if controlled else f"{name}; no controller"


async def step(world: World, traffic: Traffic, *, seed: int, before_s: float, after_s: float) -> Outcome:
    """Three times the traffic from one moment to the next."""
    most = traffic.answers.times(1.125, after_s)
    phases = [most.times(1 / 3, before_s), most]
    return await play(world, "step x3", phases, seed=seed)


def damped_policy(num_workers: int) -> str:
    """The policy of the scenarios that are about calm."""
    return slo_policy(workers=num_workers)
