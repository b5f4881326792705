"""The registry that a router hosts: workers register and renew over the internal port."""

from collections.abc import Sequence

from tandem.core.errors import InvalidArgument
from tandem.core.ids import Epoch, WorkerId
from tandem.core.types import WorkerInfo
from tandem.router.directory import MemoryDirectory
from tandem.rpc.context import CallContext

MAX_TTL_S = 300.0


class RegistryFront:
    """Handler of RegistryService over the in-memory directory."""

    def __init__(self, directory: MemoryDirectory) -> None:
        self._directory = directory

    async def register(self, worker: WorkerInfo, ttl_s: float, call: CallContext) -> None:
        """Add or renew a worker."""
        if not 0.0 < ttl_s <= MAX_TTL_S:
            raise InvalidArgument("ttl_s", f"is {ttl_s}", remedy=f"use a value above 0 and up to {MAX_TTL_S:g}")
        if not worker.worker_id or not worker.address:
            raise InvalidArgument("worker", "has no name or no address", remedy="set worker_id and address")
        self._directory.register(worker, ttl_s=ttl_s)

    async def deregister(self, worker_id: WorkerId, epoch: Epoch, call: CallContext) -> None:
        """Remove a worker, if it is registered with this epoch."""
        self._directory.deregister(worker_id, epoch)

    async def list_registered(self, call: CallContext) -> Sequence[WorkerInfo]:
        """The workers registered now."""
        return self._directory.workers()
