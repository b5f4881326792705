"""A worker host behind gRPC: one Attach stream per router, GetInfo, Drain."""

import asyncio
from collections.abc import AsyncIterator

from tandem.core.description import WorkerDescription
from tandem.core.errors import FailedPrecondition, InvalidArgument
from tandem.core.messages import PROTOCOL_VERSION, AttachCommand, Hello, WorkerMessage
from tandem.core.role_commands import RoleAnswer, RoleCommand
from tandem.rpc.context import CallContext
from tandem.worker_host.host import WorkerHost
from tandem.worker_host.session import RouterSession

_HELLO_TIMEOUT_S = 5.0


class WorkerServiceHandler:
    """The `WorkerHandler` of `tandem.rpc` over a host."""

    def __init__(self, host: WorkerHost) -> None:
        self._host = host

    async def attach(self, commands: AsyncIterator[AttachCommand], call: CallContext) -> AsyncIterator[WorkerMessage]:
        """Serve one router until either side ends the stream; then everything that came over it is aborted."""
        hello = await _read_hello(commands)
        session = self._host.attach(hello)
        reader = asyncio.create_task(self._read(session, commands), name=f"attach {hello.router_id}")
        try:
            async for message in session.messages():
                yield message
        finally:
            self._host.detach(session)
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def get_info(self, call: CallContext) -> WorkerDescription:
        """Tell who this worker is."""
        return self._host.describe()

    async def set_role(self, command: RoleCommand, call: CallContext) -> RoleAnswer:
        """Obey a controller, or say why not."""
        return await self._host.command_role(command)

    async def drain(self, timeout_s: float, call: CallContext) -> int:
        """Take no new work; return how many attempts are left."""
        return await self._host.drain(timeout_s)

    async def _read(self, session: RouterSession, commands: AsyncIterator[AttachCommand]) -> None:
        try:
            async for command in commands:
                self._host.command(session, command)
        finally:
            # The router closed its side: end ours too, or a half-open stream would keep its requests running.
            session.end()


async def _read_hello(commands: AsyncIterator[AttachCommand]) -> Hello:
    try:
        first = await asyncio.wait_for(anext(commands), _HELLO_TIMEOUT_S)
    except (TimeoutError, StopAsyncIteration):
        raise InvalidArgument("hello", "did not come", remedy="send Hello first on an Attach stream") from None
    if not isinstance(first, Hello):
        raise InvalidArgument("hello", "is missing", remedy="send Hello first on an Attach stream")
    if first.protocol_version != PROTOCOL_VERSION:
        raise FailedPrecondition(
            f"router {first.router_id} speaks Attach protocol {first.protocol_version}, this worker {PROTOCOL_VERSION}"
        )
    return first
