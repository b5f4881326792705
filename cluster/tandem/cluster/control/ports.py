"""What the controller asks of workers and routers, over gRPC; one connection per worker life and per router."""

import asyncio
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

    async def traffic(self, window_s: float) -> tuple[TrafficReport, ...]:
        """Ask every router."""
        asked = (stub.get_traffic(window_s, timeout_s=_ASK_S) for stub in self._stubs)
        return tuple(await asyncio.gather(*asked))

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
        """Put decisions into the log of every router."""
        await asyncio.gather(*(stub.record_decisions(source, decisions, timeout_s=_ASK_S) for stub in self._stubs))

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
