"""A worker's answer to GetInfo."""

from collections.abc import Sequence

from tandem.core.description import WorkerDescription, WorkerHoldings
from tandem.core.errors import InvalidArgument
from tandem.core.latency import LatencyCoefficients
from tandem.rpc.codec.workers import decode_info, decode_load, encode_info, encode_load
from tandem.worker.v1 import info_pb2, worker_pb2


def encode_description(description: WorkerDescription) -> worker_pb2.GetInfoResponse:
    """Core to protobuf."""
    latency = description.latency
    return worker_pb2.GetInfoResponse(
        info=encode_info(description.info),
        latency=info_pb2.LatencyCoefficients(prefill=latency.prefill, step=latency.step, transfer=latency.transfer),
        load=encode_load(description.load),
        draining=description.draining,
        busy_s=description.busy_s,
        holdings=worker_pb2.WorkerHoldings(
            num_attempts=description.holdings.num_attempts,
            num_handovers=description.holdings.num_handovers,
            num_sessions=description.holdings.num_sessions,
            num_tasks=description.holdings.num_tasks,
        ),
    )


def decode_description(message: worker_pb2.GetInfoResponse) -> WorkerDescription:
    """Protobuf to core. Raises InvalidArgument for coefficients of a wrong number."""
    latency = message.latency
    prefill = _exactly(latency.prefill, 3, "latency.prefill")
    step = _exactly(latency.step, 3, "latency.step")
    transfer = _exactly(latency.transfer, 2, "latency.transfer")
    return WorkerDescription(
        info=decode_info(message.info),
        latency=LatencyCoefficients(
            prefill=(prefill[0], prefill[1], prefill[2]),
            step=(step[0], step[1], step[2]),
            transfer=(transfer[0], transfer[1]),
        ),
        load=decode_load(message.load),
        draining=message.draining,
        busy_s=message.busy_s,
        holdings=WorkerHoldings(
            num_attempts=message.holdings.num_attempts,
            num_handovers=message.holdings.num_handovers,
            num_sessions=message.holdings.num_sessions,
            num_tasks=message.holdings.num_tasks,
        ),
    )


def _exactly(values: Sequence[float], count: int, field: str) -> Sequence[float]:
    if len(values) != count:
        raise InvalidArgument(field, f"has {len(values)} numbers", remedy=f"send {count}")
    return values
