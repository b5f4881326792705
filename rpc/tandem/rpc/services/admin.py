"""The services of a router towards its cluster: the registry of workers, and what an operator sees and asks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tandem.admin.v1 import cluster_pb2, registry_pb2
from tandem.core.cluster import ClusterStatus, WorkerStatus
from tandem.core.ids import Epoch, WorkerId
from tandem.core.types import WorkerInfo
from tandem.rpc.codec import cluster, workers
from tandem.rpc.context import CallContext
from tandem.rpc.serving import Service, unary

REGISTRY_SERVICE = "tandem.admin.v1.RegistryService"
CLUSTER_SERVICE = "tandem.admin.v1.ClusterService"


class RegistryHandler(Protocol):
    """Keeps the registrations of workers."""

    async def register(self, worker: WorkerInfo, ttl_s: float, call: CallContext) -> None:
        """Add or renew a worker for ``ttl_s`` seconds."""
        ...

    async def deregister(self, worker_id: WorkerId, epoch: Epoch, call: CallContext) -> None:
        """Remove a worker, if it is registered with this epoch."""
        ...

    async def list_registered(self, call: CallContext) -> Sequence[WorkerInfo]:
        """Return the workers registered now."""
        ...


class ClusterHandler(Protocol):
    """Tells an operator about the cluster."""

    async def get_status(self, call: CallContext) -> ClusterStatus:
        """Summarise the cluster."""
        ...

    async def list_workers(self, call: CallContext) -> Sequence[WorkerStatus]:
        """Return the workers with their load."""
        ...

    async def drain_worker(self, worker_id: WorkerId, timeout_s: float, call: CallContext) -> int:
        """Drain one worker; return how many attempts are left. Raises NotFound."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Registration:
    worker: WorkerInfo
    ttl_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Life:
    worker_id: WorkerId
    epoch: Epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class _DrainOrder:
    worker_id: WorkerId
    timeout_s: float


def registry_service(handler: RegistryHandler) -> Service:
    """Return the registry service over ``handler``."""

    async def register(registration: _Registration, call: CallContext) -> None:
        await handler.register(registration.worker, registration.ttl_s, call)

    async def deregister(life: _Life, call: CallContext) -> None:
        await handler.deregister(life.worker_id, life.epoch, call)

    async def list_registered(_: None, call: CallContext) -> Sequence[WorkerInfo]:
        return sorted(await handler.list_registered(call), key=lambda worker: worker.worker_id)

    path = f"/{REGISTRY_SERVICE}/"
    return Service(
        name=REGISTRY_SERVICE,
        methods={
            "Register": unary(
                path + "Register",
                registry_pb2.RegisterRequest,
                lambda message: _Registration(worker=workers.decode_info(message.worker), ttl_s=message.ttl_s),
                register,
                lambda _: registry_pb2.RegisterResponse(),
            ),
            "Deregister": unary(
                path + "Deregister",
                registry_pb2.DeregisterRequest,
                lambda message: _Life(worker_id=WorkerId(message.worker_id), epoch=Epoch(message.epoch)),
                deregister,
                lambda _: registry_pb2.DeregisterResponse(),
            ),
            "List": unary(
                path + "List",
                registry_pb2.ListRequest,
                lambda _: None,
                list_registered,
                lambda infos: registry_pb2.ListResponse(workers=[workers.encode_info(info) for info in infos]),
            ),
        },
    )


def cluster_service(handler: ClusterHandler) -> Service:
    """Return the cluster service over ``handler``."""

    async def get_status(_: None, call: CallContext) -> ClusterStatus:
        return await handler.get_status(call)

    async def list_workers(_: None, call: CallContext) -> Sequence[WorkerStatus]:
        return sorted(await handler.list_workers(call), key=lambda worker: worker.info.worker_id)

    async def drain_worker(order: _DrainOrder, call: CallContext) -> int:
        return await handler.drain_worker(order.worker_id, order.timeout_s, call)

    path = f"/{CLUSTER_SERVICE}/"
    return Service(
        name=CLUSTER_SERVICE,
        methods={
            "GetStatus": unary(
                path + "GetStatus", cluster_pb2.GetStatusRequest, lambda _: None, get_status, cluster.encode_status
            ),
            "ListWorkers": unary(
                path + "ListWorkers",
                cluster_pb2.ListWorkersRequest,
                lambda _: None,
                list_workers,
                lambda found: cluster_pb2.ListWorkersResponse(
                    workers=[cluster.encode_worker_status(worker) for worker in found]
                ),
            ),
            "DrainWorker": unary(
                path + "DrainWorker",
                cluster_pb2.DrainWorkerRequest,
                lambda message: _DrainOrder(worker_id=WorkerId(message.worker_id), timeout_s=message.timeout_s),
                drain_worker,
                lambda num_left: cluster_pb2.DrainWorkerResponse(num_left=num_left),
            ),
        },
    )
