"""The public surface: what is exported, and that both clients offer the same."""

import dataclasses
import inspect

import pytest

import tandem.client
from tandem.client import AsyncClient, AsyncGenerationStream, Client, ConfigError, GenerationStream, InvalidArgument
from tandem.client.settings import Settings
from tandem.core import errors

EXPORTS = [
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


def test_exports_are_locked() -> None:
    """Adding a name is a decision; removing one breaks callers."""
    assert tandem.client.__all__ == EXPORTS
    for name in EXPORTS:
        assert hasattr(tandem.client, name)


def test_every_error_a_call_can_raise_is_exported() -> None:
    raised = {*errors.RequestError.__subclasses__(), *errors.ServiceError.__subclasses__()}
    # Other components derive errors of their own; over the wire they arrive as core's.
    assert {error.__name__ for error in raised if error.__module__ == errors.__name__} <= set(EXPORTS)


def _public(kind: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(member)
        for name, member in vars(kind).items()
        if inspect.isfunction(member) and (not name.startswith("_") or name == "__init__")
    }


@pytest.mark.parametrize(("blocking", "asyncio"), [(Client, AsyncClient), (GenerationStream, AsyncGenerationStream)])
def test_both_clients_have_one_surface(blocking: type, asyncio: type) -> None:
    ours, theirs = _public(blocking), _public(asyncio)
    assert set(ours) == set(theirs)
    for name, signature in ours.items():
        assert list(signature.parameters.values()) == list(theirs[name].parameters.values()) or name == "__init__"
        assert [p.name for p in signature.parameters.values()] == [p.name for p in theirs[name].parameters.values()]


def test_no_protobuf_in_signatures() -> None:
    for kind in (Client, AsyncClient, GenerationStream, AsyncGenerationStream):
        for signature in _public(kind).values():
            assert "pb" not in str(signature)


def test_results_are_frozen() -> None:
    for name in ("Generation", "GeneratedSequence", "OutputDelta", "StreamStarted", "StreamCompleted", "ModelCard"):
        kind = getattr(tandem.client, name)
        assert dataclasses.is_dataclass(kind)
        assert kind.__dataclass_params__.frozen  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"timeout_s": 0.0}, "timeout_s"),
        ({"timeout_s": -1.0}, "timeout_s"),
        ({"timeout_s": float("nan")}, "timeout_s"),
        ({"retries": -1}, "retries"),
        ({"num_connections": 0}, "num_connections"),
        ({"max_unread_bytes": 1000}, "max_unread_bytes"),
        ({"max_unread_bytes": 1 << 31}, "max_unread_bytes"),
        ({"api_key": ""}, "api_key"),
        ({"api_key": "a\nb"}, "api_key"),
        ({"api_key": "schlüssel"}, "api_key"),
    ],
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_settings_that_cannot_work_are_refused(kind: type[Client], changes: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        kind("127.0.0.1:1", **changes)  # type: ignore[arg-type]
    assert caught.value.field == field


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("address", ["nowhere", "10.0.0.1:5", "example.org:5"])
def test_addresses_are_checked_when_the_client_is_made(kind: type[Client], address: str) -> None:
    with pytest.raises(ConfigError):
        kind(address)


def test_the_key_does_not_show() -> None:
    assert "secret" not in repr(Settings(address="127.0.0.1:1", api_key="secret"))


def test_with_options_changes_only_what_is_named() -> None:
    with Client("127.0.0.1:1", timeout_s=7, retries=5) as client:
        other = client.with_options(timeout_s=1)
        assert (other._settings.timeout_s, other._settings.retries) == (1, 5)
        assert client._settings.timeout_s == 7
        assert other._channels is client._channels
        assert other._budget is client._budget
        with pytest.raises(InvalidArgument):
            client.with_options(retries=-1)
