"""The registry and the cluster service of a router, as workers and the command line see them."""

import grpc.aio

from tandem.admin.v1 import cluster_pb2, registry_pb2
from tandem.core.cluster import ClusterStatus, WorkerStatus
from tandem.core.ids import Epoch, WorkerId
from tandem.core.types import WorkerInfo
from tandem.rpc.codec import cluster, workers
from tandem.rpc.services.admin import CLUSTER_SERVICE, REGISTRY_SERVICE
from tandem.rpc.stubs.calls import call_unary


class RegistryStub:
    """Calls to the registry over an open channel, which stays the caller's to close."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    async def register(self, worker: WorkerInfo, *, ttl_s: float, timeout_s: float) -> None:
        """Add or renew a worker for ``ttl_s`` seconds; call it again well before they are over."""
        await call_unary(
            self._channel,
            f"/{REGISTRY_SERVICE}/Register",
            registry_pb2.RegisterRequest(worker=workers.encode_info(worker), ttl_s=ttl_s),
            registry_pb2.RegisterResponse,
            lambda _: None,
            timeout_s=timeout_s,
        )

    async def deregister(self, worker_id: WorkerId, epoch: Epoch, *, timeout_s: float) -> None:
        """Remove a worker's registration of this life."""
        await call_unary(
            self._channel,
            f"/{REGISTRY_SERVICE}/Deregister",
            registry_pb2.DeregisterRequest(worker_id=worker_id, epoch=epoch),
            registry_pb2.DeregisterResponse,
            lambda _: None,
            timeout_s=timeout_s,
        )

    async def list_registered(self, *, timeout_s: float) -> tuple[WorkerInfo, ...]:
        """Return the workers registered now."""
        return await call_unary(
            self._channel,
            f"/{REGISTRY_SERVICE}/List",
            registry_pb2.ListRequest(),
            registry_pb2.ListResponse,
            lambda message: tuple(workers.decode_info(info) for info in message.workers),
            timeout_s=timeout_s,
        )


class ClusterStub:
    """An operator's calls over an open channel, which stays the caller's to close."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    async def get_status(self, *, timeout_s: float) -> ClusterStatus:
        """Return the state of the cluster."""
        return await call_unary(
            self._channel,
            f"/{CLUSTER_SERVICE}/GetStatus",
            cluster_pb2.GetStatusRequest(),
            cluster_pb2.GetStatusResponse,
            cluster.decode_status,
            timeout_s=timeout_s,
        )

    async def list_workers(self, *, timeout_s: float) -> tuple[WorkerStatus, ...]:
        """Return the workers with their load."""
        return await call_unary(
            self._channel,
            f"/{CLUSTER_SERVICE}/ListWorkers",
            cluster_pb2.ListWorkersRequest(),
            cluster_pb2.ListWorkersResponse,
            lambda message: tuple(cluster.decode_worker_status(worker) for worker in message.workers),
            timeout_s=timeout_s,
        )

    async def drain_worker(self, worker_id: WorkerId, *, drain_timeout_s: float, timeout_s: float) -> int:
        """Drain one worker; return how many attempts were left after ``drain_timeout_s``."""
        return await call_unary(
            self._channel,
            f"/{CLUSTER_SERVICE}/DrainWorker",
            cluster_pb2.DrainWorkerRequest(worker_id=worker_id, timeout_s=drain_timeout_s),
            cluster_pb2.DrainWorkerResponse,
            lambda message: message.num_left,
            timeout_s=timeout_s,
        )
