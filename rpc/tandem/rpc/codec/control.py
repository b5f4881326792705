"""Traffic, guidance and records between routers and a controller."""

import math

from tandem.admin.v1 import control_pb2 as pb
from tandem.core.errors import InvalidArgument
from tandem.core.traffic import ClassTargets, EndedRequest, Guidance, OpenRequest, StoredRecord, TrafficReport, Written
from tandem.core.types import Outcome
from tandem.rpc.codec.enums import EnumCodec
from tandem.rpc.codec.tasks import PRIORITY

OUTCOME = EnumCodec(
    {
        Outcome.OK: pb.ENDED_OUTCOME_OK,
        Outcome.CANCELLED: pb.ENDED_OUTCOME_CANCELLED,
        Outcome.DEADLINE: pb.ENDED_OUTCOME_DEADLINE,
        Outcome.SHED: pb.ENDED_OUTCOME_SHED,
        Outcome.FAILED: pb.ENDED_OUTCOME_FAILED,
    }
)


def encode_traffic(report: TrafficReport) -> pb.GetTrafficResponse:
    """Core to protobuf."""
    return pb.GetTrafficResponse(
        router_id=report.router_id,
        window_s=report.window_s,
        arrivals=[
            pb.ClassArrivals(priority=PRIORITY.encode(priority), ages_s=ages)
            for priority, ages in report.arrivals.items()
        ],
        ended=[_encode_ended(request) for request in report.ended],
        queued_work_s=report.queued_work_s,
        borrow_share=report.borrow_share,
        open=[_encode_open(request) for request in report.open],
    )


def decode_traffic(message: pb.GetTrafficResponse) -> TrafficReport:
    """Protobuf to core. Raises InvalidArgument for an outcome or a class without a meaning."""
    return TrafficReport(
        router_id=message.router_id,
        window_s=message.window_s,
        arrivals={
            PRIORITY.decode(arrivals.priority, field="priority"): tuple(arrivals.ages_s)
            for arrivals in message.arrivals
        },
        ended=tuple(_decode_ended(request) for request in message.ended),
        queued_work_s=message.queued_work_s,
        borrow_share=message.borrow_share,
        open=tuple(_decode_open(request) for request in message.open),
    )


def encode_guidance(guidance: Guidance) -> pb.SetGuidanceRequest:
    """Core to protobuf."""
    return pb.SetGuidanceRequest(
        term=guidance.term,
        borrow_share=guidance.borrow_share,
        ttl_s=guidance.ttl_s,
        targets=[
            pb.ClassTargets(
                priority=PRIORITY.encode(priority), ttft_s=targets.ttft_s or 0.0, e2e_s=targets.e2e_s or 0.0
            )
            for priority, targets in guidance.targets.items()
        ],
        num_routers=guidance.num_routers or 0,
    )


def decode_guidance(message: pb.SetGuidanceRequest) -> Guidance:
    """Protobuf to core. Raises InvalidArgument for a share that is none, a time that is none, or an unknown class."""
    if not 0.0 <= message.borrow_share <= 1.0:
        raise InvalidArgument("borrow_share", f"is {message.borrow_share}", remedy="use a value from 0 to 1")
    if not 0.0 < message.ttl_s <= 3600.0:
        raise InvalidArgument("ttl_s", f"is {message.ttl_s}", remedy="use a value above 0 and up to 3600")
    return Guidance(
        term=message.term,
        borrow_share=message.borrow_share,
        ttl_s=message.ttl_s,
        targets={
            PRIORITY.decode(targets.priority, field="targets.priority"): ClassTargets(
                ttft_s=_target(targets.ttft_s, "targets.ttft_s"), e2e_s=_target(targets.e2e_s, "targets.e2e_s")
            )
            for targets in message.targets
        },
        num_routers=message.num_routers or None,
    )


def _target(seconds: float, field: str) -> float | None:
    if not 0.0 <= seconds < math.inf:
        raise InvalidArgument(field, f"is {seconds}", remedy="use seconds, or 0 for no promise")
    return seconds or None


def decode_record(message: pb.GetRecordResponse) -> StoredRecord | None:
    """Protobuf to core."""
    return StoredRecord(version=message.version, value=message.value) if message.version else None


def decode_policy(message: pb.GetPolicyResponse) -> StoredRecord | None:
    """Protobuf to core."""
    return StoredRecord(version=message.version, value=message.policy) if message.version else None


def decode_written(message: pb.PutRecordResponse) -> Written:
    """Protobuf to core."""
    record = StoredRecord(version=message.version, value=message.value) if message.version else None
    return Written(done=message.done, record=record)


def encode_written(written: Written) -> pb.PutRecordResponse:
    """Core to protobuf."""
    if written.record is None:
        return pb.PutRecordResponse(done=written.done)
    return pb.PutRecordResponse(done=written.done, version=written.record.version, value=written.record.value)


def _encode_ended(request: EndedRequest) -> pb.EndedRequest:
    return pb.EndedRequest(
        age_s=request.age_s,
        priority=PRIORITY.encode(request.priority),
        outcome=OUTCOME.encode(request.outcome),
        new_tokens=request.new_tokens,
        cached_tokens=request.cached_tokens,
        output_tokens=request.output_tokens,
        ttft_s=request.ttft_s,
        tpot_s=request.tpot_s,
        gap_p95_s=request.gap_p95_s,
        e2e_s=request.e2e_s,
    )


def _encode_open(request: OpenRequest) -> pb.OpenRequest:
    return pb.OpenRequest(
        age_s=request.age_s,
        priority=PRIORITY.encode(request.priority),
        new_tokens=request.new_tokens,
        cached_tokens=request.cached_tokens,
        output_tokens=request.output_tokens,
        max_output_tokens=request.max_output_tokens,
    )


def _decode_open(message: pb.OpenRequest) -> OpenRequest:
    return OpenRequest(
        age_s=message.age_s,
        priority=PRIORITY.decode(message.priority, field="priority"),
        new_tokens=message.new_tokens,
        cached_tokens=message.cached_tokens,
        output_tokens=message.output_tokens,
        max_output_tokens=message.max_output_tokens,
    )


def _decode_ended(message: pb.EndedRequest) -> EndedRequest:
    return EndedRequest(
        age_s=message.age_s,
        priority=PRIORITY.decode(message.priority, field="priority"),
        outcome=OUTCOME.decode(message.outcome, field="outcome"),
        new_tokens=message.new_tokens,
        cached_tokens=message.cached_tokens,
        output_tokens=message.output_tokens,
        ttft_s=message.ttft_s if message.HasField("ttft_s") else None,
        tpot_s=message.tpot_s if message.HasField("tpot_s") else None,
        gap_p95_s=message.gap_p95_s if message.HasField("gap_p95_s") else None,
        e2e_s=message.e2e_s if message.HasField("e2e_s") else None,
    )
