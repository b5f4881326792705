"""A controller's commands to workers, and their answers."""

from tandem.core.errors import InvalidArgument
from tandem.core.ids import Epoch, WorkerId
from tandem.core.role_commands import CommandKind, RoleAnswer, RoleCommand, RoleReport
from tandem.rpc.codec.enums import EnumCodec
from tandem.rpc.codec.workers import ROLE
from tandem.worker.v1 import worker_pb2 as pb

KIND = EnumCodec(
    {
        CommandKind.CLAIM: pb.ROLE_COMMAND_KIND_CLAIM,
        CommandKind.DRAIN: pb.ROLE_COMMAND_KIND_DRAIN,
        CommandKind.UNDRAIN: pb.ROLE_COMMAND_KIND_UNDRAIN,
        CommandKind.SWITCH: pb.ROLE_COMMAND_KIND_SWITCH,
        CommandKind.HAND_OVER: pb.ROLE_COMMAND_KIND_HAND_OVER,
    }
)


def encode_role_command(command: RoleCommand) -> pb.SetRoleRequest:
    """Core to protobuf."""
    return pb.SetRoleRequest(
        kind=KIND.encode(command.kind),
        worker_id=command.worker_id,
        epoch=command.epoch,
        term=command.term,
        sequence=command.sequence,
        role=None if command.role is None else ROLE.encode(command.role),
    )


def decode_role_command(message: pb.SetRoleRequest) -> RoleCommand:
    """Protobuf to core. Raises InvalidArgument for a kind or a role without a meaning, and a switch to nothing."""
    kind = KIND.decode(message.kind, field="kind")
    if kind is CommandKind.SWITCH and not message.role:
        raise InvalidArgument("role", "is missing", remedy="a switch names the new role")
    return RoleCommand(
        kind=kind,
        worker_id=WorkerId(message.worker_id),
        epoch=Epoch(message.epoch),
        term=message.term,
        sequence=message.sequence,
        role=ROLE.decode(message.role, field="role") if message.role else None,
    )


def encode_role_answer(answer: RoleAnswer) -> pb.SetRoleResponse:
    """Core to protobuf."""
    report = answer.report
    return pb.SetRoleResponse(
        worker_id=report.worker_id,
        epoch=report.epoch,
        term=report.term,
        sequence=report.sequence,
        role=ROLE.encode(report.role),
        draining=report.draining,
        busy=report.busy,
        refusal=answer.refusal,
    )


def decode_role_answer(message: pb.SetRoleResponse) -> RoleAnswer:
    """Protobuf to core. Raises InvalidArgument for a role without a meaning."""
    return RoleAnswer(
        report=RoleReport(
            worker_id=WorkerId(message.worker_id),
            epoch=Epoch(message.epoch),
            term=message.term,
            sequence=message.sequence,
            role=ROLE.decode(message.role, field="role"),
            draining=message.draining,
            busy=message.busy,
        ),
        refusal=message.refusal,
    )
