"""The service of a router towards the controller."""

from dataclasses import dataclass
from typing import Protocol

from tandem.admin.v1 import control_pb2 as pb
from tandem.core.traffic import Guidance, StoredRecord, TrafficReport, Written
from tandem.rpc.codec import control
from tandem.rpc.context import CallContext
from tandem.rpc.serving import Service, unary

CONTROL_SERVICE = "tandem.admin.v1.ControlService"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordWrite:
    """One conditional write."""

    key: str
    value: bytes
    expected_version: int


class ControlHandler(Protocol):
    """A router as the controller sees it."""

    async def get_traffic(self, window_s: float, call: CallContext) -> TrafficReport:
        """Tell what came and what became of it."""
        ...

    async def set_guidance(self, guidance: Guidance, call: CallContext) -> int:
        """Take what a controller wants; return the highest term heard."""
        ...

    async def get_record(self, key: str, call: CallContext) -> StoredRecord | None:
        """Read a record."""
        ...

    async def put_record(self, write: RecordWrite, call: CallContext) -> Written:
        """Write a record if nobody else did."""
        ...

    async def apply_policy(self, policy: bytes, call: CallContext) -> int:
        """Keep a policy; return its version."""
        ...

    async def get_policy(self, call: CallContext) -> StoredRecord | None:
        """Return the policy applied last."""
        ...


def control_service(handler: ControlHandler) -> Service:
    """Return the control service over ``handler``."""

    async def get_policy(_: None, call: CallContext) -> StoredRecord | None:
        return await handler.get_policy(call)

    path = f"/{CONTROL_SERVICE}/"
    return Service(
        name=CONTROL_SERVICE,
        methods={
            "GetTraffic": unary(
                path + "GetTraffic",
                pb.GetTrafficRequest,
                lambda message: message.window_s,
                handler.get_traffic,
                control.encode_traffic,
            ),
            "SetGuidance": unary(
                path + "SetGuidance",
                pb.SetGuidanceRequest,
                control.decode_guidance,
                handler.set_guidance,
                lambda term: pb.SetGuidanceResponse(term=term),
            ),
            "GetRecord": unary(
                path + "GetRecord",
                pb.GetRecordRequest,
                lambda message: message.key,
                handler.get_record,
                lambda record: (
                    pb.GetRecordResponse()
                    if record is None
                    else pb.GetRecordResponse(version=record.version, value=record.value)
                ),
            ),
            "PutRecord": unary(
                path + "PutRecord",
                pb.PutRecordRequest,
                lambda message: RecordWrite(
                    key=message.key, value=message.value, expected_version=message.expected_version
                ),
                handler.put_record,
                control.encode_written,
            ),
            "ApplyPolicy": unary(
                path + "ApplyPolicy",
                pb.ApplyPolicyRequest,
                lambda message: message.policy,
                handler.apply_policy,
                lambda version: pb.ApplyPolicyResponse(version=version),
            ),
            "GetPolicy": unary(
                path + "GetPolicy",
                pb.GetPolicyRequest,
                lambda _: None,
                get_policy,
                lambda record: (
                    pb.GetPolicyResponse()
                    if record is None
                    else pb.GetPolicyResponse(version=record.version, policy=record.value)
                ),
            ),
        },
    )
