"""A worker, as a router sees it."""

from __future__ import annotations  # gRPC's classes are generic in their type stubs only

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import grpc
import grpc.aio

from tandem.core.description import WorkerDescription
from tandem.core.errors import Unavailable
from tandem.core.messages import AttachCommand, Hello, WorkerMessage
from tandem.core.role_commands import RoleAnswer, RoleCommand
from tandem.rpc.codec.commands import encode_command
from tandem.rpc.codec.description import decode_description
from tandem.rpc.codec.reports import decode_worker_message
from tandem.rpc.codec.roles import decode_role_answer, encode_role_command
from tandem.rpc.errors import rpc_errors
from tandem.rpc.services.worker import WORKER_SERVICE
from tandem.rpc.stubs.calls import call_unary
from tandem.rpc.wire import read_message
from tandem.worker.v1 import worker_pb2 as pb


class AttachStream:
    """The stream between one router and one worker. Iterate it for messages; send from any one task at a time.

    Use it as an asynchronous context manager: leaving it cancels the call, and the worker aborts what came over it.
    """

    def __init__(self, call: grpc.aio.StreamStreamCall[Any, Any]) -> None:
        self._call = call
        self._is_cancelled = False

    async def send(self, command: AttachCommand) -> None:
        """Send one command. Raises Unavailable (or what else ended the stream) when the worker is gone."""
        with rpc_errors(), self._own_cancel():
            try:
                await self._call.write(encode_command(command).SerializeToString())
            except asyncio.InvalidStateError as error:  # written after the end: the status says why it ended
                await _raise_status(self._call, error)

    async def close_sending(self) -> None:
        """Say that no command follows; the worker may still report."""
        with rpc_errors():
            await self._call.done_writing()

    def cancel(self) -> None:
        """End the stream at once. Whoever reads or writes it gets Unavailable."""
        self._is_cancelled = True
        self._call.cancel()

    async def __aiter__(self) -> AsyncIterator[WorkerMessage]:
        """Yield messages until the worker closes the stream. Raises the Tandem error it ended with otherwise."""
        with rpc_errors(), self._own_cancel():
            async for data in self._call:
                yield read_message(pb.AttachResponse, data, decode_worker_message)

    async def __aenter__(self) -> AttachStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call.cancel()

    @contextmanager
    def _own_cancel(self) -> Iterator[None]:
        """gRPC raises CancelledError for a call that was cancelled here; to the task it would mean its own end."""
        try:
            yield
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._is_cancelled or (task is not None and task.cancelling()):
                raise
            raise Unavailable("the stream was ended on this side", reason="STREAM_ENDED") from None


async def _raise_status(call: grpc.aio.StreamStreamCall[Any, Any], cause: Exception) -> None:
    raise grpc.aio.AioRpcError(
        await call.code(),
        await call.initial_metadata(),
        await call.trailing_metadata(),
        details=await call.details(),
        debug_error_string=None,
    ) from cause


class WorkerStub:
    """Calls to one worker over an open channel, which stays the caller's to close."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    async def attach(self, hello: Hello) -> AttachStream:
        """Open the stream and greet. Raises Unavailable when the worker can't be reached."""
        call = self._channel.stream_stream(
            f"/{WORKER_SERVICE}/Attach", request_serializer=None, response_deserializer=None
        )
        stream = AttachStream(call(request_iterator=None))
        await stream.send(hello)
        return stream

    async def get_info(self, *, timeout_s: float) -> WorkerDescription:
        """Ask who the worker is."""
        return await call_unary(
            self._channel,
            f"/{WORKER_SERVICE}/GetInfo",
            pb.GetInfoRequest(),
            pb.GetInfoResponse,
            decode_description,
            timeout_s=timeout_s,
        )

    async def set_role(self, command: RoleCommand, *, timeout_s: float) -> RoleAnswer:
        """Command the worker; what it did not obey is said in the answer."""
        return await call_unary(
            self._channel,
            f"/{WORKER_SERVICE}/SetRole",
            encode_role_command(command),
            pb.SetRoleResponse,
            decode_role_answer,
            timeout_s=timeout_s,
        )

    async def drain(self, *, drain_timeout_s: float, timeout_s: float) -> int:
        """Let the worker finish; return how many attempts were left after ``drain_timeout_s``."""
        return await call_unary(
            self._channel,
            f"/{WORKER_SERVICE}/Drain",
            pb.DrainRequest(timeout_s=drain_timeout_s),
            pb.DrainResponse,
            lambda message: message.num_left,
            timeout_s=timeout_s,
        )
