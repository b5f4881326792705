"""A gRPC server with Tandem's rules: access control on every method, health, reflection, one bound address."""

from collections.abc import Callable

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from tandem.rpc.access import AccessControl
from tandem.rpc.addresses import join_address, require_protection, split_address
from tandem.rpc.auth import AccessInterceptor
from tandem.rpc.channels import ServerLimits, bind, server_options
from tandem.rpc.serving import Service
from tandem.rpc.tls import TlsMaterial

_HEALTH_PATHS = tuple(f"/{health.SERVICE_NAME}/{method}" for method in ("Check", "Watch"))
_REFLECTION_PATHS = (f"/{reflection.SERVICE_NAME}/ServerReflectionInfo",)


class RpcServer:
    """Add services, start, stop. Must be made inside a running event loop.

    Every service starts as not serving in ``grpc.health.v1``; ``mark_serving`` says when it is ready. The empty name
    stands for the whole server. Reflection is for public servers.
    """

    def __init__(
        self,
        *,
        address: str,
        access: AccessControl | None = None,
        load_tls: Callable[[], TlsMaterial] | None = None,
        insecure: bool = False,
        limits: ServerLimits | None = None,
        with_reflection: bool = False,
    ) -> None:
        """Prepare a server for ``host:port`` (port 0 = any free one); ``load_tls`` is asked again when files rotate."""
        limits = limits or ServerLimits()
        self._address = address
        self._access = access or AccessControl()
        self._load_tls = load_tls
        self._insecure = insecure
        self._with_reflection = with_reflection
        self._services: list[Service] = []
        self._port: int | None = None
        self._server = grpc.aio.server(
            interceptors=[AccessInterceptor(self._access)],
            options=server_options(limits),
            maximum_concurrent_rpcs=limits.max_concurrent_calls,
        )
        self._health = HealthServicer()

    def add(self, service: Service) -> None:
        """Add a service, before the start."""
        self._services.append(service)
        handler = grpc.method_handlers_generic_handler(service.name, dict(service.methods))
        self._server.add_generic_rpc_handlers((handler,))

    async def start(self) -> str:
        """Bind and serve; return the address with the port that was bound.

        Raises ConfigError for a method without an access rule, or for an open address without protection;
        EnvironmentProblem for a port in use.
        """
        host, _ = split_address(self._address)
        protected = self._load_tls is not None and self._access.authenticates
        require_protection(host, protected=protected, insecure=self._insecure, what="this server")
        self._access.require_rules(self._paths())
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = [service.name for service in self._services]
        if self._with_reflection:
            reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], self._server)
        self._port = bind(self._server, self._address, load_tls=self._load_tls)
        for name in ("", *names):
            await self.mark_not_serving(name)
        await self._server.start()
        return join_address(host, self._port)

    async def mark_serving(self, name: str) -> None:
        """Let health checks of ``name`` (a service, a pool, "" = the server) answer SERVING."""
        await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def mark_not_serving(self, name: str) -> None:
        """Let health checks of ``name`` answer NOT_SERVING."""
        await self._health.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)

    async def stop(self, *, grace_s: float) -> None:
        """Take no new calls; let running ones go on for ``grace_s``, then cancel them."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)

    async def wait(self) -> None:
        """Return when the server has stopped."""
        await self._server.wait_for_termination()

    def _paths(self) -> list[str]:
        paths = [path for service in self._services for path in service.paths()]
        return [*paths, *_HEALTH_PATHS, *(_REFLECTION_PATHS if self._with_reflection else ())]
