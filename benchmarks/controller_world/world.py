"""One cluster of tagged workers with controllers beside it, whose way to the router's numbers can be cut."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.controller_world.policies import fixed_policy
from benchmarks.controller_world.units import ControllerUnit, Rounds
from tandem.chaos.cluster import ChaosCluster, ChaosOptions
from tandem.chaos.faults.failpoint_faults import FailpointDesk
from tandem.chaos.faults.flow import Direction
from tandem.chaos.faults.proxy import ProxyThread, TcpProxy
from tandem.chaos.faults.stream_faults import Stall
from tandem.client import WorkerState
from tandem.cluster.programs.config import ControllerProgramConfig, RegistryTarget
from tandem.controller.live.leadership import LEADER_RECORD
from tandem.core.errors import SetupError, TandemError
from tandem.core.types import Role
from tandem.rpc.channels import open_channel
from tandem.rpc.stubs.control import ControlStub

_SAMPLE_S = 0.25
_REFUSED = "role_command_refused"
_SHARE_LAPSES_S = 5.5  # routers follow a controller that is gone for so long


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Who served what at one moment, as the router saw it."""

    at_s: float
    roles: dict[str, Role]  # of workers that take work

    def count(self, role: Role) -> int:
        """Workers of a role that take work."""
        return sum(each is role for each in self.roles.values())

    @property
    def split(self) -> str:
        """Prefill to decode."""
        return f"{self.count(Role.PREFILL)}:{self.count(Role.DECODE)}"


@dataclass(slots=True, kw_only=True)
class Samples:
    """The cluster over time."""

    seen: list[Sample] = field(default_factory=list)

    def between(self, begin_s: float, end_s: float) -> list[Sample]:
        """Samples of a span of time."""
        return [sample for sample in self.seen if begin_s <= sample.at_s < end_s]

    def switches(self, begin_s: float, end_s: float) -> list[tuple[float, str]]:
        """When which worker was seen in another role than before."""
        known: dict[str, Role] = {}
        found: list[tuple[float, str]] = []
        for sample in self.seen:
            for worker, role in sample.roles.items():
                if known.get(worker, role) is not role and begin_s <= sample.at_s < end_s:
                    found.append((sample.at_s, worker))
                known[worker] = role
        return found


class World:
    """Use as an async context manager."""

    def __init__(self, options: ChaosOptions, *, folder: Path, lease_s: float = 3.0) -> None:
        self.cluster = ChaosCluster(options)
        self.rounds = Rounds()
        self.samples = Samples()
        self.desk = FailpointDesk(folder / "failpoints")
        self._folder = folder
        self._lease_s = lease_s
        self._proxies = ProxyThread()
        self._proxy: TcpProxy | None = None
        self._units: list[ControllerUnit] = []
        self._sampling: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._proxies.__enter__()
        await self.cluster.__aenter__()
        self._proxy = await asyncio.to_thread(TcpProxy, self._proxies, target=self.cluster.internal_address)
        self._sampling = asyncio.create_task(self._sample(), name="sample")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for unit in self._units:
            await unit.stop()
        if self._sampling is not None:
            self._sampling.cancel()
            await asyncio.gather(self._sampling, return_exceptions=True)
        await self.cluster.__aexit__(kind, error, trace)
        await asyncio.to_thread(self._proxies.__exit__, None, None, None)

    async def add_controller(self, name: str = "controller-0") -> ControllerUnit:
        """Start a controller."""
        address = self.cluster.internal_address
        config = ControllerProgramConfig(
            controller_id=name,
            registry=RegistryTarget(kind="router", address=address),
            routers=[address if self._proxy is None else self._proxy.address],
            lease_s=self._lease_s,
        )
        unit = ControllerUnit(config, self.rounds, logs=self.cluster.folders.logs, variables=self.desk.variables())
        self._units.append(unit)
        await unit.start()
        return unit

    async def end_controllers(self) -> None:
        """End all of them."""
        for unit in self._units:
            await unit.stop()
        self._units.clear()

    async def apply(self, policy: str) -> int:
        """Give the cluster a policy, as `tandem policy apply` does."""
        async with open_channel(self.cluster.internal_address) as channel:
            return await ControlStub(channel).apply_policy(policy.encode(), timeout_s=5.0)

    async def reset(self, split: str) -> None:
        """End every controller, bring the workers to ``split``, and forget that there were moves."""
        await self.end_controllers()
        prefill, decode = (int(count) for count in split.split(":"))
        if not await self.until([split], timeout_s=1.0):
            await self.apply(fixed_policy(prefill, decode))
            await self.add_controller()
            if not await self.until([split], timeout_s=60.0):
                raise SetupError(f"the workers did not come to {split} in 60 s", remedy="look at the controller's log")
            await self.end_controllers()
        async with open_channel(self.cluster.internal_address) as channel:
            control = ControlStub(channel)
            known = await control.get_record(LEADER_RECORD, timeout_s=5.0)
            version = 0 if known is None else known.version
            await control.put_record(LEADER_RECORD, b"{}", expected_version=version, timeout_s=5.0)
        await asyncio.sleep(_SHARE_LAPSES_S)

    async def cut_metrics(self, seconds: float) -> None:
        """Let no number of the router reach a controller for a while."""
        if self._proxy is None:
            return
        stall = Stall(Direction.TO_SERVER)
        await asyncio.to_thread(self._proxy.add, stall)
        try:
            await asyncio.sleep(seconds)
        finally:
            await asyncio.to_thread(self._proxy.remove, stall)
            stall.release(self._proxies)

    async def until(self, split: Sequence[str], *, timeout_s: float) -> bool:
        """Wait until the router sees one of these splits."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self.samples.seen or self.samples.seen[-1].split not in split:  # noqa: ASYNC110
                    await asyncio.sleep(_SAMPLE_S)
        except TimeoutError:
            return False
        return True

    async def until_not(self, split: str, *, timeout_s: float) -> bool:
        """Wait until the router sees another split."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.samples.seen and self.samples.seen[-1].split == split:  # noqa: ASYNC110
                    await asyncio.sleep(_SAMPLE_S)
        except TimeoutError:
            return False
        return True

    async def until_told(self, controller: str, since_s: float, *, timeout_s: float) -> int | None:
        """Wait until ``controller`` tells of a round; return its term, or None if it does not."""
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            own = [one for one in self.rounds.between(since_s, deadline_s) if one.controller == controller]
            if own:
                return own[-1].term
            await asyncio.sleep(_SAMPLE_S)
        return None

    def refusals_of(self, term: int | None) -> int:
        """Orders of a term that workers have refused because they obey a higher one; they write it into their logs."""
        if term is None:
            return 0
        words = (_REFUSED, f"term {term} is over")
        lines = (line for log in self.cluster.folders.logs.rglob("*.log") for line in _lines(log))
        return sum(all(word in line for word in words) for line in lines)

    async def _sample(self) -> None:
        while True:
            try:
                status = await self.cluster.status()
            except TandemError:
                await asyncio.sleep(_SAMPLE_S)
                continue
            roles = {str(w.info.worker_id): w.info.role for w in status.workers if w.state is WorkerState.READY}
            self.samples.seen.append(Sample(at_s=time.monotonic(), roles=roles))
            await asyncio.sleep(_SAMPLE_S)


def _lines(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8", errors="replace").splitlines()
