"""The registry in the router's memory, as workers reach it over gRPC."""

import grpc.aio
import structlog

from tandem.core.errors import TandemError
from tandem.core.ids import Epoch, WorkerId
from tandem.core.types import WorkerInfo
from tandem.rpc.channels import open_channel
from tandem.rpc.stubs.admin import RegistryStub
from tandem.rpc.tls import TlsMaterial

_log = structlog.get_logger(__name__)
_TIMEOUT_S = 1.0


class RouterRegistry:
    """Announce and withdraw at one router. A router that is away is no error: it is asked again at the next renewal."""

    def __init__(self, address: str, *, tls: TlsMaterial | None, insecure: bool) -> None:
        self._channel: grpc.aio.Channel = open_channel(address, tls=tls, insecure=insecure)
        self._stub = RegistryStub(self._channel)
        self._is_reachable = True

    async def announce(self, info: WorkerInfo, *, ttl_s: float) -> bool:
        """Write or renew a registration; False when the router did not take it."""
        try:
            await self._stub.register(info, ttl_s=ttl_s, timeout_s=_TIMEOUT_S)
        except TandemError as error:
            if self._is_reachable:
                _log.warning("registry_unreachable", reason=error.reason)
            self._is_reachable = False
            return False
        self._is_reachable = True
        return True

    async def withdraw(self, worker_id: WorkerId, epoch: Epoch) -> None:
        """Remove a registration; silent when the router is away."""
        try:
            await self._stub.deregister(worker_id, epoch, timeout_s=_TIMEOUT_S)
        except TandemError:
            return

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close(None)
