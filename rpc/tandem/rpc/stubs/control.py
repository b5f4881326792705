"""A router, as the controller and the operator's policy commands see it."""

from collections.abc import Iterable

import grpc.aio

from tandem.admin.v1 import control_pb2 as pb
from tandem.admin.v1 import decisions_pb2
from tandem.core.decisions import Decision
from tandem.core.traffic import Guidance, StoredRecord, TrafficReport, Written
from tandem.rpc.codec import control
from tandem.rpc.codec import decisions as codec
from tandem.rpc.services.control import CONTROL_SERVICE
from tandem.rpc.services.decisions import DECISION_SERVICE
from tandem.rpc.stubs.calls import call_unary


class ControlStub:
    """Calls to one router over an open channel, which stays the caller's to close."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    async def get_traffic(self, window_s: float, *, timeout_s: float) -> TrafficReport:
        """Ask what came and what became of it."""
        return await call_unary(
            self._channel,
            f"/{CONTROL_SERVICE}/GetTraffic",
            pb.GetTrafficRequest(window_s=window_s),
            pb.GetTrafficResponse,
            control.decode_traffic,
            timeout_s=timeout_s,
        )

    async def set_guidance(self, guidance: Guidance, *, timeout_s: float) -> int:
        """Say what is wanted; return the highest term that the router has heard."""
        return await call_unary(
            self._channel,
            f"/{CONTROL_SERVICE}/SetGuidance",
            control.encode_guidance(guidance),
            pb.SetGuidanceResponse,
            lambda message: message.term,
            timeout_s=timeout_s,
        )

    async def record_decisions(self, source: str, decisions: Iterable[Decision], *, timeout_s: float) -> None:
        """Put a controller's rounds into the router's log."""
        await call_unary(
            self._channel,
            f"/{DECISION_SERVICE}/RecordDecisions",
            decisions_pb2.RecordDecisionsRequest(
                source=source, decisions=[codec.encode_decision(decision) for decision in decisions]
            ),
            decisions_pb2.RecordDecisionsResponse,
            lambda _: None,
            timeout_s=timeout_s,
        )

    async def get_record(self, key: str, *, timeout_s: float) -> StoredRecord | None:
        """Read a record."""
        return await call_unary(
            self._channel,
            f"/{CONTROL_SERVICE}/GetRecord",
            pb.GetRecordRequest(key=key),
            pb.GetRecordResponse,
            control.decode_record,
            timeout_s=timeout_s,
        )

    async def put_record(self, key: str, value: bytes, *, expected_version: int, timeout_s: float) -> Written:
        """Write a record if ``expected_version`` is stored now."""
        return await call_unary(
            self._channel,
            f"/{CONTROL_SERVICE}/PutRecord",
            pb.PutRecordRequest(key=key, value=value, expected_version=expected_version),
            pb.PutRecordResponse,
            control.decode_written,
            timeout_s=timeout_s,
        )

    async def apply_policy(self, policy: bytes, *, timeout_s: float) -> int:
        """Give the controller a policy; return its version."""
        return await call_unary(
            self._channel,
            f"/{CONTROL_SERVICE}/ApplyPolicy",
            pb.ApplyPolicyRequest(policy=policy),
            pb.ApplyPolicyResponse,
            lambda message: message.version,
            timeout_s=timeout_s,
        )

    async def get_policy(self, *, timeout_s: float) -> StoredRecord | None:
        """Return the policy that was applied last."""
        return await call_unary(
            self._channel,
            f"/{CONTROL_SERVICE}/GetPolicy",
            pb.GetPolicyRequest(),
            pb.GetPolicyResponse,
            control.decode_policy,
            timeout_s=timeout_s,
        )
