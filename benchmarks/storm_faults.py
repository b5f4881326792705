"""The faults of the storm: what each kind does to a running cluster, whom it strikes, and how it proves that it did."""

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.fault_matrix.world import World
from tandem.chaos.faults.flow import Direction, LinkFault
from tandem.chaos.faults.frame_faults import DuplicateFrame, FlipInFrame, HoldFrame
from tandem.chaos.faults.frame_splitter import DATA, FramePart
from tandem.chaos.faults.processes import Kill, Stop
from tandem.chaos.faults.stream_faults import Cut, Delay, Stall

_BACK_S: Final = 60.0
_ROUNDS_OF_LINKS: Final = 2
_MARK: Final = 100  # an ordinary token: about every tenth prompt holds it


@dataclass(slots=True, kw_only=True)
class Strike:
    """One fault that was on from ``began_s`` to ``ended_s`` (CLOCK_MONOTONIC). ``victims``: workers it struck."""

    kind: str
    victims: frozenset[str]
    began_s: float
    mark: int | None = None  # it strikes only requests with this token in their prompt
    on_kv_link: bool = False  # it strikes only requests whose KV was handed over
    ended_s: float = 0.0
    took_effect: bool = False
    facts: str = ""
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkKind:
    """Faults on links: ``link`` is kv or attach; ``everywhere`` on those of all decode workers, else on one's."""

    link: str
    make: Callable[[random.Random], Sequence[LinkFault]]
    on_s: float
    everywhere: bool = False
    role: str = "decode"


@dataclass(frozen=True, slots=True, kw_only=True)
class PointKind:
    """A failpoint in every process of a role."""

    role: str
    point: str
    fields: Mapping[str, Any]
    on_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessKind:
    """A process is killed, or (``stop_s``) stopped and continued."""

    role: str
    stop_s: float | None = None


Kind = LinkKind | PointKind | ProcessKind

KINDS: Final[dict[str, Kind]] = {
    "prefill killed": ProcessKind(role="prefill"),
    "decode killed": ProcessKind(role="decode"),
    "prefill stopped 2 s": ProcessKind(role="prefill", stop_s=2.0),
    "decode stopped 2 s": ProcessKind(role="decode", stop_s=2.0),
    "decode stopped 7 s": ProcessKind(role="decode", stop_s=7.0),
    "KV link reset": LinkKind(
        link="kv",
        make=lambda dice: [Cut(Direction.TO_SERVER, after_bytes=dice.choice((0, 5000)), how="reset")],
        on_s=1.0,
    ),
    "KV link stalled": LinkKind(link="kv", make=lambda _: [Stall(Direction.TO_SERVER)], on_s=2.0),
    "KV bytes corrupted": LinkKind(
        link="kv",
        make=lambda dice: [FlipInFrame(DATA, FramePart.PAYLOAD, offset=dice.randrange(64), nth=3, times=3)],
        on_s=3.0,
    ),
    "KV frames doubled": LinkKind(
        link="kv", make=lambda _: [DuplicateFrame(DATA, times=None)], on_s=12.0, everywhere=True
    ),
    "KV frames held": LinkKind(
        link="kv", make=lambda _: [HoldFrame(DATA, nth=2, times=5, overtaken_by=DATA)], on_s=3.0
    ),
    "KV link delayed": LinkKind(
        link="kv", make=lambda _: [Delay(Direction.TO_SERVER, seconds=0.05)], on_s=12.0, everywhere=True
    ),
    "decode stream cut": LinkKind(link="attach", make=lambda _: [Cut(Direction.TO_CLIENT)], on_s=1.0),
    "prefill stream cut": LinkKind(link="attach", make=lambda _: [Cut(Direction.TO_CLIENT)], on_s=1.0, role="prefill"),
    "decode step raises": PointKind(
        role="decode", point="engine.step", fields={"action": "raise", "after": 20, "times": 2}, on_s=3.0
    ),
    "KV turns NaN": PointKind(
        role="prefill", point="engine.kv", fields={"action": "nan", "mark": _MARK, "times": None}, on_s=3.0
    ),
    "logits turn NaN": PointKind(
        role="decode", point="engine.logits", fields={"action": "nan", "mark": _MARK, "times": None}, on_s=3.0
    ),
}


async def strike(world: World, name: str, dice: random.Random) -> Strike:
    """Let one fault happen, and wait until every worker is back. Raises nothing for what the cluster does."""
    match KINDS[name]:
        case ProcessKind() as process:
            done = await _on_process(world, name, process, dice)
        case LinkKind() as link:
            done = await _on_links(world, name, link, dice)
        case PointKind() as point:
            done = await _at_point(world, name, point)
    try:
        await _all_ready(world)
    except TimeoutError:
        done.problems.append(f"{name}: not every worker is back after {_BACK_S} s")
    return done


async def _on_process(world: World, name: str, kind: ProcessKind, dice: random.Random) -> Strike:
    victim = dice.choice(world.names(kind.role))
    pid = world.cluster.pid(victim)
    done = Strike(kind=name, victims=frozenset({victim}), began_s=time.monotonic())
    if kind.stop_s is None:
        restarts = world.cluster.num_restarts(victim)
        world.killed_pids.add(pid)
        evidence = (await asyncio.to_thread(Kill, pid)).verify()
        done.ended_s = time.monotonic()
        if not await _started_again(world, victim, restarts):
            done.problems.append(f"{name}: {victim} was not started again within {_BACK_S} s")
    else:
        stopped = await asyncio.to_thread(Stop, pid)
        try:
            await asyncio.sleep(kind.stop_s)
        finally:
            await asyncio.to_thread(stopped.resume)
        evidence = stopped.verify()
        done.ended_s = time.monotonic()
    done.took_effect, done.facts = evidence.took_effect, f"{victim}: {evidence.facts}"
    return done


async def _started_again(world: World, victim: str, restarts: int) -> bool:
    until_s = time.monotonic() + _BACK_S
    while time.monotonic() < until_s:
        if world.cluster.num_restarts(victim) > restarts:
            return True
        await asyncio.sleep(0.05)
    return False


async def _on_links(world: World, name: str, kind: LinkKind, dice: random.Random) -> Strike:
    """Strike one link after another until one carried what the fault needs: an idle link can't be struck."""
    names = dice.sample(world.names(kind.role), len(world.names(kind.role)))
    done = Strike(kind=name, victims=frozenset(), began_s=time.monotonic())
    for victims in [names] if kind.everywhere else [[victim] for victim in names * _ROUNDS_OF_LINKS]:
        done = await _on_these_links(world, name, kind, victims, dice)
        if done.took_effect:
            break
    return done


async def _on_these_links(
    world: World, name: str, kind: LinkKind, victims: Sequence[str], dice: random.Random
) -> Strike:
    proxies = world.kv if kind.link == "kv" else world.attach
    placed = [(victim, proxies[victim], fault) for victim in victims for fault in kind.make(dice)]
    began_s = time.monotonic()
    try:
        for _, proxy, fault in placed:
            proxy.add(fault)
        await asyncio.sleep(kind.on_s)
    finally:
        for _, proxy, fault in placed:
            proxy.remove(fault)
            if isinstance(fault, Stall | HoldFrame):
                fault.release(world.thread)
        ended_s = time.monotonic()
    found = [(victim, fault.verify()) for victim, _, fault in placed]
    struck = frozenset(victim for victim, evidence in found if evidence.took_effect)
    return Strike(
        kind=name,
        victims=struck,
        on_kv_link=kind.link == "kv",
        began_s=began_s,
        ended_s=ended_s,
        took_effect=bool(struck),
        facts="; ".join(f"{victim}: {evidence.facts}" for victim, evidence in found),
    )


async def _at_point(world: World, name: str, kind: PointKind) -> Strike:
    victims = world.names(kind.role)
    done = Strike(kind=name, victims=frozenset(victims), mark=kind.fields.get("mark"), began_s=time.monotonic())
    armed = [world.desk.arm(victim, kind.point, **kind.fields) for victim in victims]
    try:
        await asyncio.sleep(kind.on_s)
    finally:
        for one in armed:
            one.disarm()
        done.ended_s = time.monotonic()
    found = [one.verify() for one in armed]
    done.took_effect = any(evidence.took_effect for evidence in found)
    done.facts = "; ".join(evidence.facts for evidence in found)
    return done


async def _all_ready(world: World) -> None:
    """Every worker takes part again; requests go on meanwhile."""
    until_s = time.monotonic() + _BACK_S
    while True:
        states = [worker.state.value for worker in (await world.cluster.status()).workers]
        if states.count("ready") == len(world.ports):
            return
        if time.monotonic() > until_s:
            raise TimeoutError
        await asyncio.sleep(0.1)
