"""The error table: every error becomes one status and the same error again; strangers stay outside."""

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from tandem.core.errors import (
    Cancelled,
    ConfigError,
    DeadlineExceeded,
    DuplicateRequest,
    FailedPrecondition,
    InternalError,
    InvalidArgument,
    KvIntegrity,
    ModelError,
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
from tandem.rpc.errors import DETAILS_KEY, ERROR_TABLE, PUSHBACK_KEY, RpcStatus, error_from_rpc, public_error, status_of

EVERY: list[tuple[TandemError, grpc.StatusCode]] = [
    (InvalidArgument("n", "is 9", remedy="use 8"), grpc.StatusCode.INVALID_ARGUMENT),
    (Unauthenticated("who", reason="NO_CREDENTIAL"), grpc.StatusCode.UNAUTHENTICATED),
    (PermissionDenied("not you"), grpc.StatusCode.PERMISSION_DENIED),
    (NotFound("no model"), grpc.StatusCode.NOT_FOUND),
    (DuplicateRequest("it runs", retry_after_s=0.5), grpc.StatusCode.ALREADY_EXISTS),
    (QuotaExceeded("too many", retry_after_s=2.5), grpc.StatusCode.RESOURCE_EXHAUSTED),
    (Overloaded("full", retry_after_s=0.25), grpc.StatusCode.UNAVAILABLE),
    (Unavailable("lost", reason="WORKER_LOST", metadata={"tokens_emitted": "4"}), grpc.StatusCode.UNAVAILABLE),
    (DeadlineExceeded("late", stage="queue"), grpc.StatusCode.DEADLINE_EXCEEDED),
    (Cancelled("gone"), grpc.StatusCode.CANCELLED),
    (KvIntegrity("torn"), grpc.StatusCode.INTERNAL),
    (FailedPrecondition("layout", reason="KV_LAYOUT_MISMATCH"), grpc.StatusCode.FAILED_PRECONDITION),
    (InternalError("defect"), grpc.StatusCode.INTERNAL),
]


class FakeRpcError(grpc.RpcError):
    """A failed call as gRPC hands it out."""

    def __init__(self, status: RpcStatus) -> None:
        self._status = status

    def code(self) -> grpc.StatusCode:
        return self._status.code

    def details(self) -> str:
        return self._status.message

    def trailing_metadata(self) -> tuple[tuple[str, str | bytes], ...]:  # type: ignore[override]  # as in reality
        return self._status.trailing_metadata


def _bare(code: grpc.StatusCode, message: str = "text of gRPC's") -> TandemError:
    return error_from_rpc(FakeRpcError(RpcStatus(code=code, message=message, trailing_metadata=())))


def _details(error: TandemError) -> status_pb2.Status:
    raw = dict(status_of(error).trailing_metadata)[DETAILS_KEY]
    assert isinstance(raw, bytes)
    return status_pb2.Status.FromString(raw)


def test_the_examples_are_the_whole_table() -> None:
    assert {type(error) for error, _ in EVERY} == set(ERROR_TABLE)


def test_the_table_is_the_whole_tree() -> None:
    """A new error class without a status would be shown to callers as a defect."""
    tree = {*RequestError.__subclasses__(), *ServiceError.__subclasses__()}
    # Other components derive errors of their own: those go out as the nearest class of the table.
    assert {kind for kind in tree if kind.__module__ == RequestError.__module__} == set(ERROR_TABLE)


@pytest.mark.parametrize(("error", "code"), EVERY, ids=lambda value: type(value).__name__)
def test_each_error_comes_back_as_itself(error: TandemError, code: grpc.StatusCode) -> None:
    status = status_of(error)
    assert status.code is code
    back = error_from_rpc(FakeRpcError(status))
    assert type(back) is type(error)
    assert (back.message, back.reason) == (error.message, error.reason)
    assert back.metadata == error.metadata
    assert back.retry_after_s == error.retry_after_s
    if isinstance(error, InvalidArgument):
        assert isinstance(back, InvalidArgument)
        assert back.field == error.field
    if isinstance(error, DeadlineExceeded):
        assert isinstance(back, DeadlineExceeded)
        assert back.stage == error.stage


@pytest.mark.parametrize(("error", "code"), EVERY, ids=lambda value: type(value).__name__)
def test_each_status_has_an_error_info(error: TandemError, code: grpc.StatusCode) -> None:
    status = _details(error)
    info = error_details_pb2.ErrorInfo()
    assert status.code == code.value[0]
    assert status.details[0].Unpack(info)
    assert (info.domain, info.reason) == ("tandem", error.reason)
    assert info.reason == info.reason.upper()
    assert info.metadata["retryable"] == str(error.retryable).lower()


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (InvalidArgument("n", "is 9"), error_details_pb2.BadRequest),
        (QuotaExceeded("q"), error_details_pb2.QuotaFailure),
        (FailedPrecondition("f"), error_details_pb2.PreconditionFailure),
        (Overloaded("o", retry_after_s=1.0), error_details_pb2.RetryInfo),
    ],
)
def test_the_standard_details_come_where_they_apply(error: TandemError, detail: type) -> None:
    kinds = {any_detail.TypeName() for any_detail in _details(error).details}
    assert kinds == {"google.rpc.ErrorInfo", detail.DESCRIPTOR.full_name}  # type: ignore[attr-defined]


def test_pushback_is_there_for_other_grpc_clients() -> None:
    assert dict(status_of(Overloaded("o", retry_after_s=0.25)).trailing_metadata)[PUSHBACK_KEY] == "250"
    assert PUSHBACK_KEY not in dict(status_of(Overloaded("o")).trailing_metadata)


def test_long_texts_fit_the_metadata_limit() -> None:
    error = InvalidArgument("f" * 5000, "p" * 50_000, remedy="r" * 5000)
    error.metadata["x"] = "y" * 5000
    status = status_of(error)
    size = len(status.message) + sum(len(value) for _, value in status.trailing_metadata)
    assert size < 6 * 1024


def test_strangers_are_hidden() -> None:
    for stranger in (
        RuntimeError("/etc/secret"),
        ModelError("/models/secret is broken", remedy="look at /secret"),
        ConfigError("secret.yaml:3"),
        TandemError("secret"),
        type("Subclass", (Unavailable,), {})("secret"),
    ):
        shown = public_error(stranger, request_id="abc")
        assert type(shown) is InternalError
        assert "secret" not in shown.message
        assert (shown.reason, shown.metadata) == ("INTERNAL", {"request_id": "abc"})


def test_known_errors_get_the_request_id() -> None:
    error = Unavailable("lost")
    assert public_error(error, request_id="abc") is error
    assert error.metadata["request_id"] == "abc"
    named = Unavailable("lost", metadata={"request_id": "first"})
    assert public_error(named, request_id="second").metadata["request_id"] == "first"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, Unavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceeded),
        (grpc.StatusCode.CANCELLED, Cancelled),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Overloaded),
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidArgument),
        (grpc.StatusCode.UNIMPLEMENTED, FailedPrecondition),
        (grpc.StatusCode.INTERNAL, InternalError),
        (grpc.StatusCode.UNKNOWN, InternalError),
        (grpc.StatusCode.DATA_LOSS, InternalError),
    ],
)
def test_statuses_of_grpc_itself_are_understood(code: grpc.StatusCode, kind: type[TandemError]) -> None:
    error = _bare(code)
    assert type(error) is kind
    assert "text of gRPC's" in error.message


@pytest.mark.parametrize("words", ["Deadline Exceeded", "Stream removed (Deadline Exceeded)"])
def test_a_time_out_that_grpc_itself_noticed_says_what_to_do(words: str) -> None:
    error = _bare(grpc.StatusCode.DEADLINE_EXCEEDED, words)
    assert isinstance(error, DeadlineExceeded)
    assert error.stage == "client"
    assert error.message == "the time for this call was over before its answer was whole; give it more"


def test_too_large_a_message_is_the_callers_fault() -> None:
    error = _bare(grpc.StatusCode.RESOURCE_EXHAUSTED, "SERVER: Received message larger than max (9 vs. 4)")
    assert isinstance(error, InvalidArgument)
    assert error.reason == "MESSAGE_TOO_LARGE"
    assert not error.retryable
    assert _bare(grpc.StatusCode.RESOURCE_EXHAUSTED).reason != "MESSAGE_TOO_LARGE"


@pytest.mark.parametrize("raw", [b"\xff\xff", b"", status_pb2.Status(code=14).SerializeToString()])
def test_broken_or_foreign_details_fall_back_to_the_code(raw: bytes) -> None:
    status = RpcStatus(
        code=grpc.StatusCode.UNAVAILABLE, message="m", trailing_metadata=(("x", "y"), (DETAILS_KEY, raw))
    )
    assert type(error_from_rpc(FakeRpcError(status))) is Unavailable


def test_details_of_another_domain_are_not_ours() -> None:
    info = error_details_pb2.ErrorInfo(reason="X", domain="elsewhere", metadata={"kind": "NotFound"})
    message = status_pb2.Status(code=14, message="m")
    message.details.add().Pack(info)
    status = RpcStatus(
        code=grpc.StatusCode.UNAVAILABLE,
        message="m",
        trailing_metadata=((DETAILS_KEY, message.SerializeToString()),),
    )
    assert type(error_from_rpc(FakeRpcError(status))) is Unavailable


def test_an_rpc_error_without_anything_is_internal() -> None:
    assert type(error_from_rpc(grpc.RpcError("odd"))) is InternalError


def test_who_is_to_stay_away_is_told_so_in_grpcs_own_way() -> None:
    status = status_of(Overloaded("later", metadata={"pushback": "-1"}))
    assert dict(status.trailing_metadata)[PUSHBACK_KEY] == "-1"
    again = error_from_rpc(FakeRpcError(status))
    assert again.retry_after_s is None
    assert again.metadata["pushback"] == "-1"
