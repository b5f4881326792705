"""The interceptor that lets nobody past who may not call a method, and tells handlers whose call it is."""

from __future__ import annotations  # gRPC's classes are generic in their type stubs only

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio

from tandem.core.errors import TandemError
from tandem.core.ids import new_request_id
from tandem.rpc.access import AccessControl, Caller, PeerRole
from tandem.rpc.context import current_tenant
from tandem.rpc.errors import abort_with, public_error

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Behaviour: TypeAlias = "Callable[[Any, Context], Any]"

ROLE_URI: Final = "spiffe://tandem/role/"
_ALTERNATIVE_NAMES: Final = "x509_subject_alternative_name"
_KINDS: Final = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


class AccessInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Asks the access control before each call, whatever service it is for; sets ``current_tenant``."""

    def __init__(self, access: AccessControl) -> None:
        self._access = access

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """Wrap the handler of the called method; an unknown method has none, and gRPC answers UNIMPLEMENTED."""
        handler = await continuation(handler_call_details)
        # The stubs say that there always is one.
        return handler if handler is None else self._guarded(handler, handler_call_details.method)

    def _guarded(self, handler: grpc.RpcMethodHandler[Any, Any], method: str) -> grpc.RpcMethodHandler[Any, Any]:
        kind = next(kind for kind in _KINDS if getattr(handler, kind) is not None)
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        behaviour = self._guard(getattr(handler, kind), method)
        guarded: grpc.RpcMethodHandler[Any, Any] = make(
            behaviour, handler.request_deserializer, handler.response_serializer
        )
        return guarded

    def _guard(self, inner: Behaviour, method: str) -> Behaviour:
        if inspect.isasyncgenfunction(inner):

            async def generate(request: Any, context: Context) -> AsyncIterator[Any]:
                await self._admit(method, context)
                async for answer in inner(request, context):
                    yield answer

            return generate

        async def call(request: Any, context: Context) -> Any:
            await self._admit(method, context)
            answer = inner(request, context)
            return await answer if inspect.isawaitable(answer) else answer

        return call

    async def _admit(self, method: str, context: Context) -> None:
        caller = Caller(authorization=header(context, "authorization"), roles=roles_of(context.auth_context()))
        try:
            tenant = self._access.admit(method, caller)
        except TandemError as error:
            await abort_with(context, public_error(error, request_id=new_request_id()))
        current_tenant.set(tenant)


def header(context: Context, name: str) -> str | None:
    """Return the first value of a metadata key, if the caller sent one."""
    for key, value in context.invocation_metadata() or ():
        if key == name:
            return value if isinstance(value, str) else value.decode("latin-1")
    return None


def roles_of(auth_context: Mapping[str, Iterable[bytes]]) -> frozenset[PeerRole]:
    """Return the roles that the peer's verified certificate names; none without one."""
    names = [name.decode("utf-8", errors="replace") for name in auth_context.get(_ALTERNATIVE_NAMES, ())]
    claimed = {name.removeprefix(ROLE_URI) for name in names if name.startswith(ROLE_URI)}
    return frozenset(role for role in PeerRole if role.value in claimed)
