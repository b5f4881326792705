"""Cluster status, as an operator sees it."""

from tandem.admin.v1 import cluster_pb2 as pb
from tandem.core.cluster import (
    ClusterStatus,
    PairState,
    PairStatus,
    ServingMode,
    ServingStatus,
    WorkerState,
    WorkerStatus,
)
from tandem.core.ids import WorkerId
from tandem.rpc.codec.enums import EnumCodec
from tandem.rpc.codec.workers import decode_info, decode_load, encode_info, encode_load

STATE = EnumCodec(
    {
        WorkerState.CONNECTING: pb.WORKER_STATE_CONNECTING,
        WorkerState.READY: pb.WORKER_STATE_READY,
        WorkerState.SUSPECT: pb.WORKER_STATE_SUSPECT,
        WorkerState.DRAINING: pb.WORKER_STATE_DRAINING,
        WorkerState.LOST: pb.WORKER_STATE_LOST,
    }
)

PAIR_STATE = EnumCodec(
    {
        PairState.FAILING: pb.PAIR_STATE_FAILING,
        PairState.OPEN: pb.PAIR_STATE_OPEN,
        PairState.PROBING: pb.PAIR_STATE_PROBING,
        PairState.UNEQUAL: pb.PAIR_STATE_UNEQUAL,
    }
)

SERVING_MODE = EnumCodec(
    {
        ServingMode.SPLIT: pb.SERVING_MODE_SPLIT,
        ServingMode.MIXED: pb.SERVING_MODE_MIXED,
        ServingMode.AGGREGATED: pb.SERVING_MODE_AGGREGATED,
    }
)


def encode_worker_status(status: WorkerStatus) -> pb.WorkerStatus:
    """Core to protobuf."""
    return pb.WorkerStatus(
        info=encode_info(status.info),
        state=STATE.encode(status.state),
        load=None if status.load is None else encode_load(status.load),
        silent_ms=status.silent_ms,
    )


def decode_worker_status(message: pb.WorkerStatus) -> WorkerStatus:
    """Protobuf to core. Raises InvalidArgument for a state without a meaning."""
    return WorkerStatus(
        info=decode_info(message.info),
        state=STATE.decode(message.state, field="state"),
        load=decode_load(message.load) if message.HasField("load") else None,
        silent_ms=message.silent_ms if message.HasField("silent_ms") else None,
    )


def encode_status(status: ClusterStatus) -> pb.GetStatusResponse:
    """Core to protobuf."""
    return pb.GetStatusResponse(
        model=status.model,
        ready=status.ready,
        not_ready_reason=status.not_ready_reason,
        router_id=status.router_id,
        uptime_s=status.uptime_s,
        num_queued=status.num_queued,
        num_running=status.num_running,
        num_ended=dict(status.num_ended),
        workers=[encode_worker_status(worker) for worker in status.workers],
        pairs=[_encode_pair(pair) for pair in status.pairs],
        num_stale=status.num_stale,
        num_isolated=status.num_isolated,
        num_in_flight=status.num_in_flight,
        num_tasks=status.num_tasks,
        serving=pb.ServingStatus(
            mode=SERVING_MODE.encode(status.serving.mode),
            cause=status.serving.cause,
            since_s=status.serving.since_s,
            num_placed=dict(status.serving.num_placed),
        ),
        cache=[pb.TierHits(tier=tier, hit_rate=rate) for tier, rate in status.cache_hit_rates.items()],
    )


def decode_status(message: pb.GetStatusResponse) -> ClusterStatus:
    """Protobuf to core."""
    return ClusterStatus(
        model=message.model,
        ready=message.ready,
        router_id=message.router_id,
        uptime_s=message.uptime_s,
        not_ready_reason=message.not_ready_reason,
        num_queued=message.num_queued,
        num_running=message.num_running,
        num_ended=dict(message.num_ended),
        workers=tuple(decode_worker_status(worker) for worker in message.workers),
        pairs=tuple(_decode_pair(pair) for pair in message.pairs),
        num_stale=message.num_stale,
        num_isolated=message.num_isolated,
        num_in_flight=message.num_in_flight,
        num_tasks=message.num_tasks,
        serving=ServingStatus(
            mode=SERVING_MODE.decode(message.serving.mode, field="serving.mode", default=ServingMode.SPLIT),
            cause=message.serving.cause,
            since_s=message.serving.since_s,
            num_placed=dict(message.serving.num_placed),
        ),
        cache_hit_rates={hits.tier: hits.hit_rate for hits in message.cache},
    )


def _encode_pair(pair: PairStatus) -> pb.PairStatus:
    return pb.PairStatus(
        prefill_worker_id=pair.prefill_worker,
        decode_worker_id=pair.decode_worker,
        state=PAIR_STATE.encode(pair.state),
        num_failures=pair.num_failures,
        last_reason=pair.last_reason,
        probe_in_ms=pair.probe_in_ms,
    )


def _decode_pair(message: pb.PairStatus) -> PairStatus:
    return PairStatus(
        prefill_worker=WorkerId(message.prefill_worker_id),
        decode_worker=WorkerId(message.decode_worker_id),
        state=PAIR_STATE.decode(message.state, field="state"),
        num_failures=message.num_failures,
        last_reason=message.last_reason,
        probe_in_ms=message.probe_in_ms if message.HasField("probe_in_ms") else None,
    )
