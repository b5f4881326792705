"""The Python client of Tandem, blocking and for asyncio, of one surface. Loads neither torch nor Ray.

>>> from tandem.client import Client
>>> with Client("127.0.0.1:50051") as client:                      # doctest: +SKIP
...     print(client.generate("The capital of France is").text)
...     with client.stream("Once upon a time", max_tokens=50) as stream:
...         for text in stream.texts():
...             print(text, end="", flush=True)
"""

from tandem.client.async_client import AsyncClient
from tandem.client.async_stream import AsyncGenerationStream
from tandem.client.requests import ChatOptions, GenerateOptions, Message
from tandem.client.sync_client import Client
from tandem.client.sync_stream import GenerationStream
from tandem.core.cache import CacheStatus, Flushed
from tandem.core.cluster import ClusterStatus, WorkerState, WorkerStatus
from tandem.core.errors import (
    Cancelled,
    ConfigError,
    DeadlineExceeded,
    DuplicateRequest,
    FailedPrecondition,
    InternalError,
    InvalidArgument,
    KvIntegrity,
    NotFound,
    Overloaded,
    PermissionDenied,
    QuotaExceeded,
    RequestError,
    ServiceError,
    TandemError,
    Unauthenticated,
    Unavailable,
)
from tandem.core.inference import (
    CachePin,
    GeneratedSequence,
    Generation,
    ModelCard,
    OutputDelta,
    SequenceFinished,
    ServedBy,
    StreamCompleted,
    StreamEvent,
    StreamStarted,
)
from tandem.core.types import (
    ChatMessage,
    FinishReason,
    PhaseTimings,
    PositionLogprobs,
    PriorityClass,
    TokenLogprob,
    Usage,
)
from tandem.rpc.tls import TlsMaterial, read_tls

__all__ = [
    "AsyncClient",
    "AsyncGenerationStream",
    "CachePin",
    "CacheStatus",
    "Cancelled",
    "ChatMessage",
    "ChatOptions",
    "Client",
    "ClusterStatus",
    "ConfigError",
    "DeadlineExceeded",
    "DuplicateRequest",
    "FailedPrecondition",
    "FinishReason",
    "Flushed",
    "GenerateOptions",
    "GeneratedSequence",
    "Generation",
    "GenerationStream",
    "InternalError",
    "InvalidArgument",
    "KvIntegrity",
    "Message",
    "ModelCard",
    "NotFound",
    "OutputDelta",
    "Overloaded",
    "PermissionDenied",
    "PhaseTimings",
    "PositionLogprobs",
    "PriorityClass",
    "QuotaExceeded",
    "RequestError",
    "SequenceFinished",
    "ServedBy",
    "ServiceError",
    "StreamCompleted",
    "StreamEvent",
    "StreamStarted",
    "TandemError",
    "TlsMaterial",
    "TokenLogprob",
    "Unauthenticated",
    "Unavailable",
    "Usage",
    "WorkerState",
    "WorkerStatus",
    "read_tls",
]
