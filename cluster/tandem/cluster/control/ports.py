"""What the controller asks of workers and routers, over gRPC; one connection per worker life and per router."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import grpc.aio

from tandem.core.clock import Clock, MonotonicClock
from tandem.core.decisions import Decision
from tandem.core.description import WorkerDescription
from tandem.core.ids import Epoch, WorkerId
from tandem.core.role_commands import RoleAnswer, RoleCommand
from tandem.core.traffic import Guidance, TrafficReport
from tandem.core.types import WorkerInfo
from tandem.rpc.channels import open_channel
from tandem.rpc.stubs.admin import RegistryStub
from tandem.rpc.stubs.control import ControlStub
from tandem.rpc.stubs.worker import WorkerStub
from tandem.rpc.tls import TlsMaterial

_ASK_S = 2.0
_GONE_AFTER_S = 30.0
_MOST_OWED = 64  # decisions, to a router that is away
_COMMAND_S = 12.0  # a worker answers between two forward steps, and building a role takes a moment

_Life = tuple[WorkerId, Epoch]


class GrpcWorkers:
    """A `WorkerPort`."""

    def __init__(self, *, tls: TlsMaterial | None, insecure: bool) -> None:
        self._tls = tls
        self._insecure = insecure
        self._channels: dict[_Life, grpc.aio.Channel] = {}

    async def describe(self, info: WorkerInfo) -> WorkerDescription:
        """Ask a worker who it is and how it fares."""
        return await self._stub(info).get_info(timeout_s=_ASK_S)

    async def command(self, info: WorkerInfo, command: RoleCommand) -> RoleAnswer:
        """Command a worker."""
        return await self._stub(info).set_role(command, timeout_s=_COMMAND_S)

    async def keep_only(self, infos: tuple[WorkerInfo, ...]) -> None:
        """Close the connections to all others."""
        lives = {(info.worker_id, info.epoch) for info in infos}
        for life in self._channels.keys() - lives:
            await self._channels.pop(life).close(None)

    async def close(self) -> None:
        """Close every connection."""
        await self.keep_only(())

    def _stub(self, info: WorkerInfo) -> WorkerStub:
        life = (info.worker_id, info.epoch)
        if life not in self._channels:
            self._channels[life] = open_channel(info.address, tls=self._tls, insecure=self._insecure)
        return WorkerStub(self._channels[life])


class GrpcRouters:
    """A `RouterPort`."""

    def __init__(
        self, addresses: Sequence[str], *, tls: TlsMaterial | None, insecure: bool, clock: Clock | None = None
    ) -> None:
        self._channels = [open_channel(address, tls=tls, insecure=insecure) for address in addresses]
        self._stubs = [ControlStub(channel) for channel in self._channels]
        self._clock = clock or MonotonicClock()
        self._answered_s = [self._clock.now_s()] * len(self._stubs)
        self._owed: list[deque[Decision]] = [deque(maxlen=_MOST_OWED) for _ in self._stubs]
        self._told_last: Decision | None = None

    async def traffic(self, window_s: float) -> tuple[TrafficReport, ...]:
        """Ask every router. Raises what the first that did not answer failed with.

        Such a one may come back as a new process that remembers nothing: it is told again what was told last.
        """
        asked = (stub.get_traffic(window_s, timeout_s=_ASK_S) for stub in self._stubs)
        reports: list[TrafficReport] = []
        failed: list[BaseException] = []
        for owed, answer in zip(self._owed, await asyncio.gather(*asked, return_exceptions=True), strict=True):
            if isinstance(answer, BaseException):
                failed.append(answer)
                if self._told_last is not None and not owed:
                    owed.append(self._told_last)
            else:
                reports.append(answer)
        if failed:
            raise failed[0]
        return tuple(reports)

    async def guide(self, guidance: Guidance) -> int:
        """Tell every router, and how many there are; return the highest term that one has heard.

        Raises what the first that did not answer failed with; the others have been told all the same. A router counts
        until it has been silent for a while: one that is only slow still serves callers.
        """
        guidance = replace(guidance, num_routers=self._num_live())
        told = (stub.set_guidance(guidance, timeout_s=_ASK_S) for stub in self._stubs)
        terms: list[int] = []
        failed: list[BaseException] = []
        for index, answer in enumerate(await asyncio.gather(*told, return_exceptions=True)):
            if isinstance(answer, BaseException):
                failed.append(answer)
            else:
                self._answered_s[index] = self._clock.now_s()
                terms.append(answer)
        if failed:
            raise failed[0]
        return max(terms)

    def _num_live(self) -> int:
        since_s = self._clock.now_s() - _GONE_AFTER_S
        return max(sum(answered_s >= since_s for answered_s in self._answered_s), 1)

    async def tell(self, source: str, decisions: Sequence[Decision]) -> None:
        """Put decisions into the log of every router, after those that it has missed.

        Raises what the first that did not take them failed with; the others have them, and get none of them twice.
        """
        for decision in decisions:
            self._told_last = decision
            for owed in self._owed:
                owed.append(decision)
        telling = (self._catch_up(index, source) for index, owed in enumerate(self._owed) if owed)
        for answer in await asyncio.gather(*telling, return_exceptions=True):
            if isinstance(answer, BaseException):
                raise answer

    async def _catch_up(self, index: int, source: str) -> None:
        await self._stubs[index].record_decisions(source, tuple(self._owed[index]), timeout_s=_ASK_S)
        self._owed[index].clear()

    async def close(self) -> None:
        """Close every connection."""
        for channel in self._channels:
            await channel.close(None)


class RouterWorkerList:
    """A `WorkerList`: the registry in a router's memory."""

    def __init__(self, address: str, *, tls: TlsMaterial | None, insecure: bool) -> None:
        self._channel = open_channel(address, tls=tls, insecure=insecure)
        self._stub = RegistryStub(self._channel)

    async def list_workers(self) -> tuple[WorkerInfo, ...] | None:
        """Return who is registered. Raises Unavailable while the router is away."""
        return await self._stub.list_registered(timeout_s=_ASK_S)

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close(None)
