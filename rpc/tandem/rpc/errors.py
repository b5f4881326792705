"""The one table between Tandem's errors and gRPC statuses, with their google.rpc details.

Every status carries ``ErrorInfo`` (domain ``tandem``, the error's reason, its metadata and its ``kind``); by kind the
caller's side builds the same error again. What is not in the table never reaches a caller: see ``public_error``.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, NoReturn, Protocol

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2 as details_pb
from google.rpc import status_pb2

from tandem.core.errors import (
    Cancelled,
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
    TandemError,
    Unauthenticated,
    Unavailable,
)

DOMAIN: Final = "tandem"
DETAILS_KEY: Final = "grpc-status-details-bin"
PUSHBACK_KEY: Final = "grpc-retry-pushback-ms"  # what retry policies inside gRPC libraries read
_MAX_MESSAGE_CHARS: Final = 1024  # metadata is limited to 8 KiB, and the text travels twice
_MAX_FACT_CHARS: Final = 256

ERROR_TABLE: Final[dict[type[TandemError], grpc.StatusCode]] = {
    InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    NotFound: grpc.StatusCode.NOT_FOUND,
    DuplicateRequest: grpc.StatusCode.ALREADY_EXISTS,
    QuotaExceeded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Overloaded: grpc.StatusCode.UNAVAILABLE,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    Cancelled: grpc.StatusCode.CANCELLED,
    KvIntegrity: grpc.StatusCode.INTERNAL,
    FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    InternalError: grpc.StatusCode.INTERNAL,
}
_BY_KIND: Final = {error.__name__: error for error in ERROR_TABLE}

# For statuses that gRPC itself or a proxy made, without details of ours.
_BY_CODE: Final[dict[grpc.StatusCode, type[TandemError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.OUT_OF_RANGE: InvalidArgument,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: DuplicateRequest,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.UNIMPLEMENTED: FailedPrecondition,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcStatus:
    """What goes over the wire for one error."""

    code: grpc.StatusCode
    message: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...]


class Aborting(Protocol):
    """The part of a servicer's context that ends a call."""

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: tuple[tuple[str, str | bytes], ...] = ()
    ) -> NoReturn:
        """End the call with a status; never returns."""
        ...


def public_error(error: BaseException, *, request_id: str) -> TandemError:
    """Return what a caller may see of ``error``: itself when it is in the table, else InternalError without its text.

    The request id is added, so that the caller can name the request to whoever reads the logs.
    """
    if type(error) in ERROR_TABLE and isinstance(error, TandemError):
        error.metadata.setdefault("request_id", request_id)
        return error
    return InternalError(
        f"request {request_id} failed inside the server; its log has the details", metadata={"request_id": request_id}
    )


def status_of(error: TandemError) -> RpcStatus:
    """Return code, message and trailing metadata for an error of the table. Raises KeyError for any other."""
    code = ERROR_TABLE[type(error)]
    message = error.message[:_MAX_MESSAGE_CHARS]
    facts = {name: value[:_MAX_FACT_CHARS] for name, value in error.metadata.items()}
    facts |= {"kind": type(error).__name__, "retryable": str(error.retryable).lower()}
    if error.retry_after_s is not None:
        facts["retry_after_ms"] = str(round(error.retry_after_s * 1000))
    details: list[Message] = [details_pb.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=facts)]
    details += _extra_details(error, message)
    status = status_pb2.Status(code=code.value[0], message=message, details=[_packed(detail) for detail in details])
    trailing: list[tuple[str, str | bytes]] = [(DETAILS_KEY, status.SerializeToString())]
    if error.retry_after_s is not None:
        trailing.append((PUSHBACK_KEY, str(round(error.retry_after_s * 1000))))
    elif "pushback" in facts:
        trailing.append((PUSHBACK_KEY, facts["pushback"]))  # negative: gRPC's own retries end
    return RpcStatus(code=code, message=message, trailing_metadata=tuple(trailing))


async def abort_with(context: Aborting, error: TandemError) -> NoReturn:
    """End a call with the status of ``error``."""
    status = status_of(error)
    await context.abort(status.code, status.message, status.trailing_metadata)


def error_from_rpc(error: grpc.RpcError) -> TandemError:
    """Return the Tandem error that a failed call stands for, whoever made its status."""
    code, message = _code(error), _message(error)
    status = _rich_status(error)
    if status is not None:
        built = _from_details(status)
        if built is not None:
            return built
    return _from_code(code, message)


@contextmanager
def rpc_errors() -> Iterator[None]:
    """Turn gRPC errors raised in the block into Tandem's."""
    try:
        yield
    except grpc.RpcError as error:
        raise error_from_rpc(error) from error


def _extra_details(error: TandemError, message: str) -> list[Message]:
    extra: list[Message] = []
    if isinstance(error, InvalidArgument):
        description = (error.problem + (f"; {error.remedy}" if error.remedy else ""))[:_MAX_MESSAGE_CHARS]
        violation = details_pb.BadRequest.FieldViolation(field=error.field[:_MAX_FACT_CHARS], description=description)
        extra.append(details_pb.BadRequest(field_violations=[violation]))
    if isinstance(error, QuotaExceeded):
        subject = error.metadata.get("quota", "tenant")
        quota = details_pb.QuotaFailure.Violation(subject=subject, description=message)
        extra.append(details_pb.QuotaFailure(violations=[quota]))
    if isinstance(error, FailedPrecondition):
        unmet = details_pb.PreconditionFailure.Violation(type=error.reason, description=message)
        extra.append(details_pb.PreconditionFailure(violations=[unmet]))
    if error.retry_after_s is not None:
        delay = Duration()
        delay.FromNanoseconds(round(error.retry_after_s * 1e9))
        extra.append(details_pb.RetryInfo(retry_delay=delay))
    return extra


def _packed(detail: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(detail)
    return packed


def _code(error: grpc.RpcError) -> grpc.StatusCode:
    code = getattr(error, "code", None)
    found = code() if callable(code) else None
    return found if isinstance(found, grpc.StatusCode) else grpc.StatusCode.UNKNOWN


def _message(error: grpc.RpcError) -> str:
    details = getattr(error, "details", None)
    return (details() if callable(details) else None) or str(error)


def _rich_status(error: grpc.RpcError) -> status_pb2.Status | None:
    trailing = getattr(error, "trailing_metadata", None)
    pairs = (trailing() if callable(trailing) else None) or ()
    for key, value in pairs:
        if key == DETAILS_KEY:
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                return None
    return None


def _from_details(status: status_pb2.Status) -> TandemError | None:
    info, violation, retry = details_pb.ErrorInfo(), details_pb.BadRequest(), details_pb.RetryInfo()
    retry_after_s: float | None = None
    for detail in status.details:
        if detail.Is(info.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(violation.DESCRIPTOR):
            detail.Unpack(violation)
        elif detail.Is(retry.DESCRIPTOR):
            detail.Unpack(retry)
            retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
    facts = dict(info.metadata)
    facts.pop("retryable", None)
    facts.pop("retry_after_ms", None)
    kind = _BY_KIND.get(facts.pop("kind", ""))
    if info.domain != DOMAIN or kind is None:
        return None
    if issubclass(kind, InvalidArgument):
        first = violation.field_violations[0] if violation.field_violations else None
        built: TandemError = InvalidArgument(
            first.field if first else facts.get("field", "request"),
            first.description if first else status.message,
            reason=info.reason,
        )
    elif issubclass(kind, DeadlineExceeded):
        built = DeadlineExceeded(status.message, stage=facts.get("stage", "unknown"))
        built.reason = info.reason
    else:
        built = kind(status.message, reason=info.reason, retry_after_s=retry_after_s)
    built.retry_after_s = retry_after_s
    built.metadata.update(facts)
    return built


_DIALLED: Final = re.compile(r"ipv[46]:(\S+?:\d+):")


def _from_code(code: grpc.StatusCode, message: str) -> TandemError:
    kind = _BY_CODE.get(code, InternalError)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in message:
        # Said by gRPC itself, before any handler of ours: there are no details to read the reason from.
        return InvalidArgument("request", message, remedy="send less in one message", reason="MESSAGE_TOO_LARGE")
    if kind is InvalidArgument:
        return InvalidArgument("request", message)
    if kind is DeadlineExceeded:
        # gRPC's own words tell nobody what to do: "Stream removed (Deadline Exceeded)".
        is_grpcs = "deadline exceeded" in message.lower()
        words = "the time for this call was over before its answer was whole; give it more" if is_grpcs else message
        return DeadlineExceeded(words, stage="client")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return FailedPrecondition(f"the server does not offer this method: {message}", reason="UNIMPLEMENTED")
    if kind is Unavailable and "failed to connect" in message:
        found = _DIALLED.search(message)
        where = found.group(1) if found else "this address"
        return Unavailable(f"no server answers at {where}: is it running, and is the port right?", reason="UNREACHABLE")
    return kind(message)
