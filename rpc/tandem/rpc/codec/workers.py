"""What a worker says about itself."""

from tandem.core.errors import InvalidArgument
from tandem.core.ids import Epoch, WorkerId
from tandem.core.types import Role, WorkerInfo, WorkerLoad
from tandem.rpc.codec.enums import EnumCodec
from tandem.worker.v1 import info_pb2 as pb

ROLE = EnumCodec({Role.PREFILL: pb.ROLE_PREFILL, Role.DECODE: pb.ROLE_DECODE})


def encode_info(info: WorkerInfo) -> pb.WorkerInfo:
    """Core to protobuf."""
    return pb.WorkerInfo(
        worker_id=info.worker_id,
        epoch=info.epoch,
        role=ROLE.encode(info.role),
        address=info.address,
        model=info.model,
        model_digest=info.model_digest,
        layout_fingerprint=info.layout_fingerprint,
        block_size=info.block_size,
        total_blocks=info.total_blocks,
        max_context_tokens=info.max_context_tokens,
        max_sequences=info.max_sequences,
        pid=info.pid,
        host=info.host,
    )


def decode_info(message: pb.WorkerInfo) -> WorkerInfo:
    """Protobuf to core. Raises InvalidArgument for a worker without a name or a role."""
    if not message.worker_id:
        raise InvalidArgument("worker.worker_id", "is empty", remedy="a worker must have a name")
    return WorkerInfo(
        worker_id=WorkerId(message.worker_id),
        epoch=Epoch(message.epoch),
        role=ROLE.decode(message.role, field="worker.role"),
        address=message.address,
        model=message.model,
        model_digest=message.model_digest,
        layout_fingerprint=message.layout_fingerprint,
        block_size=message.block_size,
        total_blocks=message.total_blocks,
        max_context_tokens=message.max_context_tokens,
        max_sequences=message.max_sequences,
        pid=message.pid,
        host=message.host,
    )


def encode_load(load: WorkerLoad) -> pb.WorkerLoad:
    """Core to protobuf."""
    return pb.WorkerLoad(
        num_running=load.num_running,
        num_waiting=load.num_waiting,
        waiting_prefill_tokens=load.waiting_prefill_tokens,
        running_context_tokens=load.running_context_tokens,
        free_blocks=load.free_blocks,
        total_blocks=load.total_blocks,
        receiving_blocks=load.receiving_blocks,
        cached_blocks=load.cached_blocks,
        pinned_blocks=load.pinned_blocks,
        step_ms=load.step_ms,
    )


def decode_load(message: pb.WorkerLoad) -> WorkerLoad:
    """Protobuf to core."""
    return WorkerLoad(
        num_running=message.num_running,
        num_waiting=message.num_waiting,
        waiting_prefill_tokens=message.waiting_prefill_tokens,
        running_context_tokens=message.running_context_tokens,
        free_blocks=message.free_blocks,
        total_blocks=message.total_blocks,
        receiving_blocks=message.receiving_blocks,
        cached_blocks=message.cached_blocks,
        pinned_blocks=message.pinned_blocks,
        step_ms=message.step_ms,
    )
