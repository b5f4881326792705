"""From a raw call to a handler that knows core values only: decoding, context, and what becomes of errors.

A ``Service`` is a gRPC service whose messages go in and out as bytes here, so that a message that can't be read is
answered like any other bad request.
"""

from __future__ import annotations  # gRPC's classes are generic in their type stubs only

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, TypeVar

import grpc
import grpc.aio
import structlog

from tandem.core.errors import TandemError
from tandem.rpc.auth import Context, header
from tandem.rpc.context import ATTEMPT, CallContext, attempt_of, current_tenant
from tandem.rpc.deadline import usable_s
from tandem.rpc.errors import ERROR_TABLE, abort_with, public_error
from tandem.rpc.wire import WireMessage, WireType, read_message

_log = structlog.get_logger(__name__)

WireT_co = TypeVar("WireT_co", covariant=True)
WireT = TypeVar("WireT", bound=WireMessage)
In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One gRPC service, ready to be added to a server."""

    name: str
    methods: Mapping[str, grpc.RpcMethodHandler[Any, Any]]

    def paths(self) -> list[str]:
        """Return the full names of the methods."""
        return [f"/{self.name}/{method}" for method in self.methods]


def unary(
    path: str,
    wire: WireType[WireT],
    decode: Callable[[WireT], In],
    handle: Callable[[In, CallContext], Awaitable[Out]],
    encode: Callable[[Out], WireMessage],
) -> grpc.RpcMethodHandler[Any, Any]:
    """Return the handler of a method with one request and one answer."""

    async def call(data: bytes, context: Context) -> bytes:
        about = call_context(path, context)
        async with _Answering(context, about):
            answer = await handle(read_message(wire, data, decode), about)
            return encode(answer).SerializeToString()

    return grpc.unary_unary_rpc_method_handler(call)


def streaming(
    path: str,
    wire: WireType[WireT],
    decode: Callable[[WireT], In],
    handle: Callable[[In, CallContext], AsyncIterator[Out]],
    encode: Callable[[Out], WireMessage],
) -> grpc.RpcMethodHandler[Any, Any]:
    """Return the handler of a method with one request and a stream of answers."""

    async def call(data: bytes, context: Context) -> None:
        about = call_context(path, context)
        async with _Answering(context, about):
            await _write_all(handle(read_message(wire, data, decode), about), encode, context)

    return grpc.unary_stream_rpc_method_handler(call)


def bidirectional(
    path: str,
    wire: WireType[WireT],
    decode: Callable[[WireT], In],
    handle: Callable[[AsyncIterator[In], CallContext], AsyncIterator[Out]],
    encode: Callable[[Out], WireMessage],
) -> grpc.RpcMethodHandler[Any, Any]:
    """Return the handler of a method with streams both ways."""

    async def call(requests: AsyncIterator[bytes], context: Context) -> None:
        about = call_context(path, context)
        async with _Answering(context, about):
            await _write_all(handle(_read_all(requests, wire, decode), about), encode, context)

    return grpc.stream_stream_rpc_method_handler(call)


def call_context(path: str, context: Context) -> CallContext:
    """Return what a handler may know about the call."""
    return CallContext(
        method=path,
        tenant=current_tenant.get(),
        deadline_left_s=usable_s(context.time_remaining()),
        traceparent=header(context, "traceparent") or "",
        attempt=attempt_of(header(context, ATTEMPT)),
    )


async def _read_all(
    requests: AsyncIterator[bytes], wire: WireType[WireT], decode: Callable[[WireT], In]
) -> AsyncIterator[In]:
    async for data in requests:
        yield read_message(wire, data, decode)


async def _write_all(answers: AsyncIterator[Out], encode: Callable[[Out], WireMessage], context: Context) -> None:
    # Closing matters: when the call is cancelled while writing, the generator would otherwise wait for the collector.
    async with aclosing(_closable(answers)) as events:
        async for event in events:
            await context.write(encode(event).SerializeToString())


class _Closable(Protocol[WireT_co]):
    def __aiter__(self) -> AsyncIterator[WireT_co]: ...

    async def aclose(self) -> None: ...


def _closable(answers: AsyncIterator[Out]) -> _Closable[Out]:
    if hasattr(answers, "aclose"):
        return answers  # type: ignore[return-value]
    return _WithClose(answers)


class _WithClose(AsyncIterator[Out]):
    """An iterator that has nothing to close."""

    def __init__(self, inner: AsyncIterator[Out]) -> None:
        self._inner = inner

    async def __anext__(self) -> Out:
        return await anext(self._inner)

    async def aclose(self) -> None:
        """Do nothing."""


class _Answering:
    """Turns what a handler raises into the status of the call."""

    def __init__(self, context: Context, about: CallContext) -> None:
        self._context = context
        self._about = about

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or not isinstance(error, Exception) or isinstance(error, grpc.aio.AbortError):
            return  # also for asyncio.CancelledError, which is no Exception: the caller is gone
        await self._abort(error)

    async def _abort(self, error: Exception) -> NoReturn:
        if not isinstance(error, TandemError) or type(error) not in ERROR_TABLE:
            _log.error("call_failed", method=self._about.method, request_id=self._about.request_id, exc_info=error)
        await abort_with(self._context, public_error(error, request_id=self._about.request_id))
