"""Keys and TLS, from the client's side of a real connection."""

from collections.abc import Iterator

import grpc
import pytest

from tandem.client import Client, ConfigError, PermissionDenied, TlsMaterial, Unauthenticated, Unavailable
from tandem.core.ids import Tenant
from tandem.rpc.access import METHOD_RULES, Access, AccessControl, PeerRole
from tandem.rpc.certs import Authority, issue, new_authority
from tandem.rpc.keys import IssuedKey, issue_key
from tests.fakes.inference_server import RunningServer, fake_inference_server

AUTHORITY: Authority = new_authority()
ACME: IssuedKey = issue_key("acme-1", Tenant("acme"))
ROOT: IssuedKey = issue_key("root", Tenant("ops"), operator=True)


@pytest.fixture(scope="module")
def keyed_server() -> Iterator[RunningServer]:
    access = AccessControl(keys=[ACME.entry, ROOT.entry])
    tls = issue(AUTHORITY, role=PeerRole.ROUTER)
    server_only = TlsMaterial(certificate=tls.certificate, key=tls.key)
    with fake_inference_server(access=access, tls=server_only) as running:
        yield running


def client_of(server: RunningServer, key: str | None) -> Client:
    return Client(server.address, api_key=key, tls=TlsMaterial(ca=AUTHORITY.certificate), retries=0, timeout_s=10)


def test_the_key_names_the_tenant(keyed_server: RunningServer) -> None:
    with client_of(keyed_server, ACME.text) as client:
        assert client.generate("a").text == "a"
    assert keyed_server.handler.calls[-1].tenant == "acme"
    with client_of(keyed_server, ROOT.text) as client, client.stream("a") as stream:
        assert stream.collect().text == "a"
    assert keyed_server.handler.calls[-1].tenant == "ops"


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (None, "NO_CREDENTIAL"),
        (ACME.text[:-1], "BAD_CREDENTIAL"),
        (ACME.text.replace("acme-1", "acme-2"), "BAD_CREDENTIAL"),
        (ACME.text.replace("acme-1", "root"), "BAD_CREDENTIAL"),
        ("something", "BAD_CREDENTIAL"),
    ],
)
def test_without_a_good_key_nothing_is_run(keyed_server: RunningServer, key: str | None, reason: str) -> None:
    before = len(keyed_server.handler.calls)
    with client_of(keyed_server, key) as client:
        with pytest.raises(Unauthenticated) as caught:
            client.generate("a")
        with client.stream("a") as stream, pytest.raises(Unauthenticated):
            stream.collect()
    assert caught.value.reason == reason
    assert len(keyed_server.handler.calls) == before


def test_cluster_state_is_for_operators(keyed_server: RunningServer) -> None:
    with client_of(keyed_server, ACME.text) as client, pytest.raises(PermissionDenied) as caught:
        client.status()
    assert caught.value.reason == "NOT_AN_OPERATOR"
    with client_of(keyed_server, ROOT.text) as client:
        assert client.status().ready


def test_health_needs_no_key(keyed_server: RunningServer) -> None:
    keyed_server.serve()
    with client_of(keyed_server, None) as client:
        client.wait_until_ready(timeout_s=5)


def test_every_method_denies_strangers(keyed_server: RunningServer) -> None:
    """All methods of the table, without a key: only health answers."""
    credentials = grpc.ssl_channel_credentials(AUTHORITY.certificate)
    answers = {}
    with grpc.secure_channel(keyed_server.address, credentials) as channel:
        for path in METHOD_RULES:
            method = channel.unary_stream(path, request_serializer=None, response_deserializer=None)
            try:
                next(iter(method(b"", timeout=1)))
                answers[path] = grpc.StatusCode.OK
            except grpc.RpcError as error:
                answers[path] = error.code()
    open_paths = {path for path, rule in METHOD_RULES.items() if rule.access is Access.OPEN}
    elsewhere = (".worker.v1.", "RegistryService", "ControlService", "DecisionService")
    not_offered = {path for path in METHOD_RULES if any(name in path for name in elsewhere)}
    denied = set(METHOD_RULES) - open_paths - not_offered
    assert len(denied) == 13
    assert {answers[path] for path in denied} == {grpc.StatusCode.UNAUTHENTICATED}
    assert grpc.StatusCode.UNAUTHENTICATED not in {answers[path] for path in open_paths | not_offered}


def test_a_server_of_another_authority_is_not_trusted(keyed_server: RunningServer) -> None:
    stranger = TlsMaterial(ca=new_authority().certificate)
    with Client(keyed_server.address, tls=stranger, retries=0) as client, pytest.raises(Unavailable):
        client.generate("a")


def test_plain_text_does_not_reach_a_tls_server(keyed_server: RunningServer) -> None:
    with Client(keyed_server.address, retries=0) as client, pytest.raises(Unavailable):
        client.generate("a")


def test_plain_text_to_another_machine_is_refused() -> None:
    with pytest.raises(ConfigError, match="--insecure"):
        Client("10.0.0.1:50051")
    Client("10.0.0.1:50051", insecure=True).close()
    Client("10.0.0.1:50051", tls=TlsMaterial()).close()
