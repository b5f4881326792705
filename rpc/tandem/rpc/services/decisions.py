"""A router's decisions, towards operators and controllers."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from tandem.admin.v1 import decisions_pb2 as pb
from tandem.core.decisions import Decision, DecisionFilter, DecisionPage
from tandem.core.ids import RequestId
from tandem.core.watching import ClusterView
from tandem.rpc.codec import decisions, watching
from tandem.rpc.context import CallContext
from tandem.rpc.serving import Service, streaming, unary

DECISION_SERVICE = "tandem.admin.v1.DecisionService"


class DecisionHandler(Protocol):
    """Knows why things were decided."""

    async def list_decisions(self, wanted: DecisionFilter, call: CallContext) -> DecisionPage:
        """Return the latest that match."""
        ...

    def follow_decisions(self, wanted: DecisionFilter, call: CallContext) -> AsyncIterator[DecisionPage]:
        """Yield them, and new ones as they come; the iterator is closed when the caller leaves."""
        ...

    async def explain_request(self, request_id: RequestId, call: CallContext) -> DecisionPage:
        """Return all about one request. Raises NotFound."""
        ...

    async def record_decisions(self, source: str, decisions: Sequence[Decision], call: CallContext) -> None:
        """Take a controller's."""
        ...

    def watch_cluster(self, interval_s: float, call: CallContext) -> AsyncIterator[ClusterView]:
        """Yield the cluster again and again; the iterator is closed when the caller leaves."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    source: str
    decisions: tuple[Decision, ...]


def decision_service(handler: DecisionHandler) -> Service:
    """Return the service over ``handler``."""

    async def record_decisions(told: _Told, call: CallContext) -> None:
        await handler.record_decisions(told.source, told.decisions, call)

    path = f"/{DECISION_SERVICE}/"
    return Service(
        name=DECISION_SERVICE,
        methods={
            "ListDecisions": unary(
                path + "ListDecisions",
                pb.ListDecisionsRequest,
                lambda message: decisions.decode_filter(message.filter),
                handler.list_decisions,
                lambda page: pb.ListDecisionsResponse(page=decisions.encode_page(page)),
            ),
            "FollowDecisions": streaming(
                path + "FollowDecisions",
                pb.FollowDecisionsRequest,
                lambda message: decisions.decode_filter(message.filter),
                handler.follow_decisions,
                lambda page: pb.FollowDecisionsResponse(page=decisions.encode_page(page)),
            ),
            "ExplainRequest": unary(
                path + "ExplainRequest",
                pb.ExplainRequestRequest,
                lambda message: RequestId(message.request_id),
                handler.explain_request,
                lambda page: pb.ExplainRequestResponse(page=decisions.encode_page(page)),
            ),
            "RecordDecisions": unary(
                path + "RecordDecisions",
                pb.RecordDecisionsRequest,
                lambda message: _Told(source=message.source, decisions=decisions.decode_recorded(message.decisions)),
                record_decisions,
                lambda _: pb.RecordDecisionsResponse(),
            ),
            "WatchCluster": streaming(
                path + "WatchCluster",
                pb.WatchClusterRequest,
                lambda message: message.interval_s,
                handler.watch_cluster,
                watching.encode_view,
            ),
        },
    )
