"""The service of a worker."""

from collections.abc import AsyncIterator
from typing import Protocol

from tandem.core.description import WorkerDescription
from tandem.core.messages import AttachCommand, WorkerMessage
from tandem.core.role_commands import RoleAnswer, RoleCommand
from tandem.rpc.codec import commands, description, reports, roles
from tandem.rpc.context import CallContext
from tandem.rpc.serving import Service, bidirectional, unary
from tandem.worker.v1 import worker_pb2 as pb

WORKER_SERVICE = "tandem.worker.v1.WorkerService"


class WorkerHandler(Protocol):
    """A worker as routers see it."""

    def attach(self, commands: AsyncIterator[AttachCommand], call: CallContext) -> AsyncIterator[WorkerMessage]:
        """Serve one router: take its commands (a Hello first) and yield reports and beats.

        Reading and yielding go on at the same time. ``commands`` ends when the router closes its side; when the router
        is lost, the task is cancelled and the returned iterator closed. What came over the stream must then be aborted.
        """
        ...

    async def get_info(self, call: CallContext) -> WorkerDescription:
        """Tell who the worker is."""
        ...

    async def set_role(self, command: RoleCommand, call: CallContext) -> RoleAnswer:
        """Obey a controller, or say why not."""
        ...

    async def drain(self, timeout_s: float, call: CallContext) -> int:
        """Take no new work; return how many attempts are left when all is done or the time is over."""
        ...


def worker_service(handler: WorkerHandler) -> Service:
    """Return the worker service over ``handler``."""

    async def get_info(_: None, call: CallContext) -> WorkerDescription:
        return await handler.get_info(call)

    path = f"/{WORKER_SERVICE}/"
    return Service(
        name=WORKER_SERVICE,
        methods={
            "Attach": bidirectional(
                path + "Attach",
                pb.AttachRequest,
                commands.decode_command,
                handler.attach,
                reports.encode_worker_message,
            ),
            "GetInfo": unary(
                path + "GetInfo", pb.GetInfoRequest, lambda _: None, get_info, description.encode_description
            ),
            "SetRole": unary(
                path + "SetRole",
                pb.SetRoleRequest,
                roles.decode_role_command,
                handler.set_role,
                roles.encode_role_answer,
            ),
            "Drain": unary(
                path + "Drain",
                pb.DrainRequest,
                lambda message: message.timeout_s,
                handler.drain,
                lambda num_left: pb.DrainResponse(num_left=num_left),
            ),
        },
    )
