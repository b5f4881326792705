"""The public methods as values: path, how to encode a request, how to decode an answer. Zero I/O.

The blocking and the asyncio client share them; both hand gRPC bytes and get bytes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from grpc_health.v1 import health_pb2

from tandem.admin.v1 import cache_pb2, cluster_pb2, control_pb2, decisions_pb2
from tandem.core.cache import CacheStatus, Flushed
from tandem.core.cluster import ClusterStatus
from tandem.core.decisions import DecisionFilter, DecisionPage
from tandem.core.errors import FailedPrecondition, InvalidArgument
from tandem.core.ids import Tenant
from tandem.core.inference import (
    DetokenizeRequest,
    GenerateRequest,
    Generation,
    ModelCard,
    StreamEvent,
    TokenizeRequest,
)
from tandem.core.traffic import StoredRecord
from tandem.core.watching import ClusterView
from tandem.inference.v1 import inference_pb2 as pb
from tandem.rpc.codec import cache, cluster, control, decisions, requests, responses, watching
from tandem.rpc.wire import WireMessage, WireType, read_message

In = TypeVar("In")
Out = TypeVar("Out")
WireT = TypeVar("WireT", bound=WireMessage)

_INFERENCE: Final = "/tandem.inference.v1.InferenceService/"
_MODEL: Final = "/tandem.inference.v1.ModelService/"
_CLUSTER: Final = "/tandem.admin.v1.ClusterService/"
_CACHE_ADMIN: Final = "/tandem.admin.v1.CacheAdminService/"
_CONTROL: Final = "/tandem.admin.v1.ControlService/"
_DECISIONS: Final = "/tandem.admin.v1.DecisionService/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Method(Generic[In, Out]):
    """One method. ``encode`` raises InvalidArgument; ``decode`` raises FailedPrecondition for an unknown answer."""

    path: str
    encode: Callable[[In], bytes]
    decode: Callable[[bytes], Out]


def _encoder(to_message: Callable[[In], WireMessage]) -> Callable[[In], bytes]:
    def encode(request: In) -> bytes:
        try:
            return to_message(request).SerializeToString()
        except (ValueError, TypeError) as error:  # protobuf's words for a number out of range, a bad text
            raise InvalidArgument("request", f"can't be sent: {error}") from error

    return encode


def _decoder(wire: WireType[WireT], from_message: Callable[[WireT], Out]) -> Callable[[bytes], Out]:
    def decode(data: bytes) -> Out:
        try:
            return read_message(wire, data, from_message)
        except InvalidArgument as error:
            raise FailedPrecondition(
                f"the server's answer can't be read ({error}); client and server are of different releases",
                reason="UNKNOWN_ANSWER",
            ) from error

    return decode


GENERATE: Final[Method[GenerateRequest, Generation]] = Method(
    path=_INFERENCE + "Generate",
    encode=_encoder(requests.encode_generate_request),
    decode=_decoder(pb.GenerateResponse, responses.decode_generation),
)
STREAM_GENERATE: Final[Method[GenerateRequest, StreamEvent]] = Method(
    path=_INFERENCE + "StreamGenerate",
    encode=_encoder(requests.encode_generate_request),
    decode=_decoder(pb.StreamGenerateResponse, responses.decode_stream_event),
)
TOKENIZE: Final[Method[TokenizeRequest, tuple[int, ...]]] = Method(
    path=_INFERENCE + "Tokenize",
    encode=_encoder(requests.encode_tokenize_request),
    decode=_decoder(pb.TokenizeResponse, lambda message: tuple(message.token_ids)),
)
DETOKENIZE: Final[Method[DetokenizeRequest, str]] = Method(
    path=_INFERENCE + "Detokenize",
    encode=_encoder(requests.encode_detokenize_request),
    decode=_decoder(pb.DetokenizeResponse, lambda message: message.text),
)
LIST_MODELS: Final[Method[None, tuple[ModelCard, ...]]] = Method(
    path=_MODEL + "ListModels",
    encode=_encoder(lambda _: pb.ListModelsRequest()),
    decode=_decoder(
        pb.ListModelsResponse, lambda message: tuple(responses.decode_model_card(card) for card in message.models)
    ),
)
GET_STATUS: Final[Method[None, ClusterStatus]] = Method(
    path=_CLUSTER + "GetStatus",
    encode=_encoder(lambda _: cluster_pb2.GetStatusRequest()),
    decode=_decoder(cluster_pb2.GetStatusResponse, cluster.decode_status),
)
FLUSH_OWN_CACHE: Final[Method[None, Flushed]] = Method(
    path=_INFERENCE + "FlushPrefixCache",
    encode=_encoder(lambda _: pb.FlushPrefixCacheRequest()),
    decode=_decoder(pb.FlushPrefixCacheResponse, cache.decode_flushed),
)
FLUSH_CACHE: Final[Method[Tenant | None, Flushed]] = Method(
    path=_CACHE_ADMIN + "FlushPrefixCache",
    encode=_encoder(lambda tenant: cache_pb2.FlushPrefixCacheRequest(tenant=tenant)),
    decode=_decoder(cache_pb2.FlushPrefixCacheResponse, cache.decode_flushed),
)
GET_CACHE_STATUS: Final[Method[None, CacheStatus]] = Method(
    path=_CACHE_ADMIN + "GetCacheStatus",
    encode=_encoder(lambda _: cache_pb2.GetCacheStatusRequest()),
    decode=_decoder(cache_pb2.GetCacheStatusResponse, cache.decode_cache_status),
)
APPLY_POLICY: Final[Method[str, int]] = Method(
    path=_CONTROL + "ApplyPolicy",
    encode=_encoder(lambda text: control_pb2.ApplyPolicyRequest(policy=text.encode())),
    decode=_decoder(control_pb2.ApplyPolicyResponse, lambda message: message.version),
)
GET_POLICY: Final[Method[None, StoredRecord | None]] = Method(
    path=_CONTROL + "GetPolicy",
    encode=_encoder(lambda _: control_pb2.GetPolicyRequest()),
    decode=_decoder(control_pb2.GetPolicyResponse, control.decode_policy),
)
LIST_DECISIONS: Final[Method[DecisionFilter, DecisionPage]] = Method(
    path=_DECISIONS + "ListDecisions",
    encode=_encoder(lambda wanted: decisions_pb2.ListDecisionsRequest(filter=decisions.encode_filter(wanted))),
    decode=_decoder(decisions_pb2.ListDecisionsResponse, lambda message: decisions.decode_page(message.page)),
)
FOLLOW_DECISIONS: Final[Method[DecisionFilter, DecisionPage]] = Method(
    path=_DECISIONS + "FollowDecisions",
    encode=_encoder(lambda wanted: decisions_pb2.FollowDecisionsRequest(filter=decisions.encode_filter(wanted))),
    decode=_decoder(decisions_pb2.FollowDecisionsResponse, lambda message: decisions.decode_page(message.page)),
)
EXPLAIN_REQUEST: Final[Method[str, DecisionPage]] = Method(
    path=_DECISIONS + "ExplainRequest",
    encode=_encoder(lambda request_id: decisions_pb2.ExplainRequestRequest(request_id=request_id)),
    decode=_decoder(decisions_pb2.ExplainRequestResponse, lambda message: decisions.decode_page(message.page)),
)
WATCH_CLUSTER: Final[Method[float, ClusterView]] = Method(
    path=_DECISIONS + "WatchCluster",
    encode=_encoder(lambda interval_s: decisions_pb2.WatchClusterRequest(interval_s=interval_s)),
    decode=_decoder(decisions_pb2.WatchClusterResponse, watching.decode_view),
)
CHECK_SERVING: Final[Method[str, bool]] = Method(
    path="/grpc.health.v1.Health/Check",
    encode=_encoder(lambda service: health_pb2.HealthCheckRequest(service=service)),
    decode=_decoder(
        health_pb2.HealthCheckResponse, lambda message: message.status == health_pb2.HealthCheckResponse.SERVING
    ),
)
