"""The faults of the matrix, as makers: what a cell's ``fault`` can be."""

import asyncio
import signal
from collections.abc import Callable, Sequence
from typing import Literal

from benchmarks.fault_matrix.cell import LiveFault, MakeFault, RoleName
from benchmarks.fault_matrix.scene import Scene
from tandem.chaos.cluster import Ending
from tandem.chaos.faults.evidence import Evidence
from tandem.chaos.faults.failpoint_faults import ArmedFailpoint
from tandem.chaos.faults.flow import LinkFault
from tandem.chaos.faults.processes import Kill, Stop
from tandem.chaos.faults.proxy import TcpProxy

Link = Literal["attach", "kv", "public"]
_NOT_YET = Evidence(took_effect=False, facts="never begun")


class _Fault:
    """What they share."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    async def end(self) -> None:
        """Nothing to undo."""


class _Killing(_Fault):
    def __init__(self, scene: Scene, role: RoleName, number: signal.Signals) -> None:
        super().__init__(scene)
        self._role, self._number = role, number
        self._kill: Kill | None = None
        self._name = ""
        self._restarts = 0

    async def begin(self) -> None:
        cluster = self.scene.world.cluster
        self._name = await self.scene.victim(self._role)
        self._restarts = 0 if self._role == "router" else cluster.num_restarts(self._name)
        pid = self.scene.pid(self._name)
        self.scene.world.killed_pids.add(pid)
        self._kill = await asyncio.to_thread(Kill, pid, self._number)

    def verify(self) -> Evidence:
        if self._kill is None:
            return _NOT_YET
        evidence = self._kill.verify()
        if self._role == "router":
            return evidence
        came_back = self.scene.world.cluster.num_restarts(self._name) > self._restarts
        facts = f"{self._name}: {evidence.facts}, started again: {came_back}"
        return Evidence(took_effect=evidence.took_effect and came_back, facts=facts)


class _RouterKilling(_Killing):
    """The router is nobody's child that is kept: the cell starts it again."""

    _is_back = False

    async def end(self) -> None:
        if self._kill is not None and not self._is_back:
            self._is_back = True
            await self.scene.world.cluster.restart_router()
            await self.scene.world.fresh_client()


class _Stopping(_Fault):
    def __init__(self, scene: Scene, role: RoleName) -> None:
        super().__init__(scene)
        self._role = role
        self._stop: Stop | None = None
        self._name = ""

    async def begin(self) -> None:
        self._name = self.scene.struck = await self.scene.victim(self._role)
        self._stop = await asyncio.to_thread(Stop, self.scene.pid(self._name))

    async def end(self) -> None:
        if self._stop is not None:
            await asyncio.to_thread(self._stop.resume)

    def verify(self) -> Evidence:
        if self._stop is None:
            return _NOT_YET
        evidence = self._stop.verify()
        return Evidence(took_effect=evidence.took_effect, facts=f"{self._name}: {evidence.facts}")


class _OnLink(_Fault):
    """One or more link faults, at the links of the one victim or of all."""

    def __init__(
        self,
        scene: Scene,
        link: Link,
        make: Callable[[], Sequence[LinkFault]],
        *,
        everywhere: bool,
        any_is_enough: bool,
    ) -> None:
        super().__init__(scene)
        self._link, self._make = link, make
        self._everywhere, self._any = everywhere, any_is_enough
        self._placed: list[tuple[TcpProxy, LinkFault]] = []

    @property
    def faults(self) -> list[LinkFault]:
        """Those in place."""
        return list(dict.fromkeys(fault for _, fault in self._placed))

    async def begin(self) -> None:
        faults = self._make()  # the same on every link: a fault for one frame meets one frame
        for proxy in await self._proxies():
            for fault in faults:
                proxy.add(fault)
                self._placed.append((proxy, fault))

    async def end(self) -> None:
        for proxy, fault in self._placed:
            release = getattr(fault, "release", None)
            proxy.remove(fault)
            if release is not None:
                release(self.scene.world.thread)

    def verify(self) -> Evidence:
        found = [fault.verify() for fault in self.faults]
        seen = [evidence.took_effect for evidence in found]
        took_effect = bool(seen) and (any(seen) if self._any else all(seen))
        return Evidence(took_effect=took_effect, facts=f"{self._link}: " + "; ".join(e.facts for e in found))

    async def _proxies(self) -> list[TcpProxy]:
        world = self.scene.world
        if self._link == "public":
            return [world.public]
        proxies = world.attach if self._link == "attach" else world.kv
        if self._everywhere:
            return [proxies[name] for name in world.names("decode")]
        return [proxies[await self.scene.victim("decode")]]


class _AtPoint(_Fault):
    """A failpoint that does something by itself, in the process that serves the probe, or in all of its role."""

    def __init__(
        self, scene: Scene, role: RoleName, point: str, fields: dict[str, object], *, everywhere: bool
    ) -> None:
        super().__init__(scene)
        self._role, self._point, self._fields, self._everywhere = role, point, fields, everywhere
        self._armed: dict[str, ArmedFailpoint] = {}

    async def begin(self) -> None:
        world = self.scene.world
        names = world.names(self._role) if self._everywhere else [await self.scene.victim(self._role)]
        for name in names:
            self._armed[name] = world.desk.arm(name, self._point, pid=self.scene.pid(name), **self._fields)

    async def end(self) -> None:
        for armed in self._armed.values():
            armed.disarm()

    def verify(self) -> Evidence:
        found = [armed.verify() for armed in self._armed.values()]
        hits = [evidence.facts for evidence in found if evidence.took_effect]
        return Evidence(took_effect=bool(hits), facts="; ".join(hits) or f"{self._point} was never passed")


class _Behaving(_Fault):
    """The fault is in what the probes ask for, or in how they read; proven by what was seen."""

    def __init__(self, scene: Scene, seen: Callable[[Scene], str]) -> None:
        super().__init__(scene)
        self._seen = seen

    async def begin(self) -> None:
        """The probes do it themselves."""

    def verify(self) -> Evidence:
        facts = self._seen(self.scene)
        return Evidence(took_effect=bool(facts), facts=facts or "not seen")


class _Both(_Fault):
    """Several at once."""

    def __init__(self, scene: Scene, faults: Sequence[LiveFault]) -> None:
        super().__init__(scene)
        self._faults = faults

    async def begin(self) -> None:
        for fault in self._faults:
            await fault.begin()

    async def end(self) -> None:
        for fault in self._faults:
            await fault.end()

    def verify(self) -> Evidence:
        found = [fault.verify() for fault in self._faults]
        return Evidence(took_effect=all(e.took_effect for e in found), facts=" + ".join(e.facts for e in found))


class _Repeated(_Fault):
    """A fault that comes and goes: on for ``on_s``, off for ``off_s``, until it is ended."""

    def __init__(self, scene: Scene, make: MakeFault, *, on_s: float, off_s: float) -> None:
        super().__init__(scene)
        self._make, self._on_s, self._off_s = make, on_s, off_s
        self._faults: list[LiveFault] = []
        self._task: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        self._task = asyncio.create_task(self._run(), name="repeated fault")

    async def end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
            await self._faults[-1].end()

    def verify(self) -> Evidence:
        found = [fault.verify() for fault in self._faults]
        num_seen = sum(evidence.took_effect for evidence in found)
        return Evidence(took_effect=num_seen > 0, facts=f"{num_seen} of {len(found)} rounds took effect")

    async def _run(self) -> None:
        while True:
            self._faults.append(self._make(self.scene))
            await self._faults[-1].begin()
            await asyncio.sleep(self._on_s)
            await self._faults[-1].end()
            await asyncio.sleep(self._off_s)


def kill(role: RoleName, number: signal.Signals = signal.SIGKILL) -> MakeFault:
    """Kill the process that serves the probe in ``role``."""
    if role == "router":
        return lambda scene: _RouterKilling(scene, role, number)
    return lambda scene: _Killing(scene, role, number)


def stop(role: RoleName) -> MakeFault:
    """Stop it; it goes on when the fault ends."""
    return lambda scene: _Stopping(scene, role)


def on_link(
    link: Link, make: Callable[[], Sequence[LinkFault]], *, everywhere: bool = False, any_is_enough: bool = False
) -> MakeFault:
    """Put link faults on the decode worker's link (or on every decode worker's, or on the callers')."""
    return lambda scene: _OnLink(scene, link, make, everywhere=everywhere, any_is_enough=any_is_enough)


def at_point(role: RoleName, point: str, *, everywhere: bool = False, **fields: object) -> MakeFault:
    """Let a failpoint act by itself in the process that serves the probe as ``role``, or in every one of that role."""
    return lambda scene: _AtPoint(scene, role, point, fields, everywhere=everywhere)


def behave(seen: Callable[[Scene], str]) -> MakeFault:
    """The probes do it themselves; ``seen`` says what shows it, or nothing."""
    return lambda scene: _Behaving(scene, seen)


def both(*makers: MakeFault) -> MakeFault:
    """Several faults at once."""
    return lambda scene: _Both(scene, [make(scene) for make in makers])


def repeated(make: MakeFault, *, on_s: float, off_s: float) -> MakeFault:
    """A fault that comes and goes."""
    return lambda scene: _Repeated(scene, make, on_s=on_s, off_s=off_s)


def nothing() -> MakeFault:
    """No fault: a control. Its evidence is that it ran."""
    return behave(lambda scene: f"control, {len(scene.probes)} requests")


def endings(scene: Scene, ending: Ending) -> str:
    """Say how many probes ended so; nothing when none did."""
    num = sum(record.ending is ending for record in scene.probes)
    return f"{num} of {len(scene.probes)} ended {ending.value}" if num else ""
