"""Router to worker: the commands of the Attach stream."""

from tandem.core.errors import InvalidArgument
from tandem.core.ids import RequestId
from tandem.core.messages import Abort, AttachCommand, ForwardGrant, Hello, ReserveDecode, StartPrefill
from tandem.core.types import KvSource
from tandem.rpc.codec.enums import EnumCodec
from tandem.rpc.codec.tasks import decode_task, encode_task
from tandem.worker.v1 import worker_pb2 as pb

KV_SOURCE = EnumCodec({KvSource.HANDOVER: pb.KV_SOURCE_HANDOVER, KvSource.LOCAL: pb.KV_SOURCE_LOCAL})


def encode_command(command: AttachCommand) -> pb.AttachRequest:
    """Core to protobuf."""
    match command:
        case Hello():
            hello = pb.Hello(router_id=command.router_id, protocol_version=command.protocol_version)
            return pb.AttachRequest(hello=hello)
        case StartPrefill():
            start = pb.StartPrefill(task=encode_task(command.task), reuse_attempt=command.reuse_attempt)
            return pb.AttachRequest(start_prefill=start)
        case ReserveDecode():
            reserve = pb.ReserveDecode(task=encode_task(command.task), source=KV_SOURCE.encode(command.source))
            return pb.AttachRequest(reserve_decode=reserve)
        case ForwardGrant():
            forward = pb.ForwardGrant(request_id=command.request_id, attempt=command.attempt, grant=command.grant)
            return pb.AttachRequest(forward_grant=forward)
        case Abort():
            abort = pb.Abort(
                request_id=command.request_id, attempt=command.attempt, reason=command.reason, child=command.child
            )
            return pb.AttachRequest(abort=abort)


def decode_command(message: pb.AttachRequest) -> AttachCommand:
    """Protobuf to core. Raises InvalidArgument for a command this release does not know or that lacks a field."""
    match message.WhichOneof("command"):
        case "hello":
            hello = message.hello
            return Hello(router_id=hello.router_id, protocol_version=hello.protocol_version)
        case "start_prefill":
            start = message.start_prefill
            return StartPrefill(
                task=decode_task(start.task),
                reuse_attempt=start.reuse_attempt if start.HasField("reuse_attempt") else None,
            )
        case "reserve_decode":
            reserve = message.reserve_decode
            return ReserveDecode(
                task=decode_task(reserve.task), source=KV_SOURCE.decode(reserve.source, field="reserve_decode.source")
            )
        case "forward_grant":
            forward = message.forward_grant
            return ForwardGrant(request_id=RequestId(forward.request_id), attempt=forward.attempt, grant=forward.grant)
        case "abort":
            abort = message.abort
            return Abort(
                request_id=RequestId(abort.request_id),
                attempt=abort.attempt,
                reason=abort.reason,
                child=abort.child if abort.HasField("child") else None,
            )
        case _:
            raise InvalidArgument("command", "is not one this release knows", remedy="use one release on both sides")
