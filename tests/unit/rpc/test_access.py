"""Who may call what: the decision, the table, keys."""

import hashlib

import pytest
from pydantic import ValidationError

from tandem.admin.v1 import cache_pb2, cluster_pb2, control_pb2, decisions_pb2, registry_pb2
from tandem.core.errors import ConfigError, PermissionDenied, TandemError, Unauthenticated
from tandem.core.ids import Tenant
from tandem.inference.v1 import inference_pb2
from tandem.rpc.access import METHOD_RULES, Access, AccessControl, Caller, PeerRole
from tandem.rpc.auth import ROLE_URI, roles_of
from tandem.rpc.config import ApiKey
from tandem.rpc.keys import KeyRing, issue_key
from tandem.worker.v1 import cache_pb2 as worker_cache_pb2
from tandem.worker.v1 import worker_pb2

ACME = issue_key("acme", Tenant("acme"))
ROOT = issue_key("root", Tenant("ops"), operator=True)
GENERATE = "/tandem.inference.v1.InferenceService/Generate"
STATUS = "/tandem.admin.v1.ClusterService/GetStatus"
ATTACH = "/tandem.worker.v1.WorkerService/Attach"
REGISTER = "/tandem.admin.v1.RegistryService/Register"
HEALTH = "/grpc.health.v1.Health/Check"

NOBODY = Caller()
TENANT = Caller(authorization=f"Bearer {ACME.text}")
OPERATOR = Caller(authorization=f"bearer {ROOT.text}")
STRANGER = Caller(authorization="Bearer tandem_acme_wrong")
ROUTER = Caller(roles=frozenset({PeerRole.ROUTER}))
DECODE = Caller(roles=frozenset({PeerRole.DECODE}))

OPEN_SERVER = AccessControl()
KEYS = AccessControl(keys=[ACME.entry, ROOT.entry])
MUTUAL = AccessControl(mutual_tls=True)
INTERNAL = AccessControl(keys=[ACME.entry, ROOT.entry], trust_peers=True)
DENIED, UNKNOWN = PermissionDenied, Unauthenticated

MATRIX: list[tuple[AccessControl, str, Caller, str | type[TandemError]]] = [
    (OPEN_SERVER, GENERATE, NOBODY, "local"),
    (OPEN_SERVER, GENERATE, TENANT, "local"),
    (OPEN_SERVER, ATTACH, NOBODY, "local"),
    (OPEN_SERVER, STATUS, NOBODY, "local"),
    (KEYS, HEALTH, NOBODY, "local"),
    (KEYS, GENERATE, NOBODY, UNKNOWN),
    (KEYS, GENERATE, STRANGER, UNKNOWN),
    (KEYS, GENERATE, TENANT, "acme"),
    (KEYS, GENERATE, OPERATOR, "ops"),
    (KEYS, STATUS, NOBODY, UNKNOWN),
    (KEYS, STATUS, TENANT, DENIED),
    (KEYS, STATUS, OPERATOR, "ops"),
    (KEYS, ATTACH, NOBODY, DENIED),
    (KEYS, ATTACH, TENANT, DENIED),
    (KEYS, ATTACH, OPERATOR, DENIED),
    (KEYS, REGISTER, OPERATOR, DENIED),
    (INTERNAL, REGISTER, NOBODY, "local"),
    (INTERNAL, STATUS, NOBODY, UNKNOWN),
    (INTERNAL, STATUS, TENANT, DENIED),
    (INTERNAL, STATUS, OPERATOR, "ops"),
    (INTERNAL, GENERATE, NOBODY, UNKNOWN),
    (MUTUAL, HEALTH, NOBODY, "local"),
    (MUTUAL, ATTACH, NOBODY, DENIED),
    (MUTUAL, ATTACH, ROUTER, "local"),
    (MUTUAL, ATTACH, DECODE, DENIED),
    (MUTUAL, REGISTER, DECODE, "local"),
    (MUTUAL, REGISTER, ROUTER, DENIED),
    (MUTUAL, STATUS, DECODE, UNKNOWN),
    (MUTUAL, GENERATE, NOBODY, UNKNOWN),
    (MUTUAL, GENERATE, ROUTER, "local"),
]


@pytest.mark.parametrize(("access", "method", "caller", "expected"), MATRIX)
def test_decision(access: AccessControl, method: str, caller: Caller, expected: str | type[TandemError]) -> None:
    if isinstance(expected, str):
        assert access.admit(method, caller) == expected
    else:
        with pytest.raises(expected):
            access.admit(method, caller)


@pytest.mark.parametrize("access", [OPEN_SERVER, KEYS, MUTUAL])
def test_a_method_without_a_rule_is_nobodys(access: AccessControl) -> None:
    with pytest.raises(PermissionDenied):
        access.admit("/tandem.inference.v1.InferenceService/Secret", OPERATOR)
    with pytest.raises(ConfigError, match="Secret"):
        access.require_rules([GENERATE, "/tandem.inference.v1.InferenceService/Secret"])
    access.require_rules([GENERATE])


def test_every_method_of_our_protos_has_a_rule_and_only_they() -> None:
    ours = {
        f"/{service.full_name}/{method.name}"
        for module in (
            inference_pb2,
            worker_pb2,
            worker_cache_pb2,
            cluster_pb2,
            registry_pb2,
            cache_pb2,
            control_pb2,
            decisions_pb2,
        )
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert len(ours) == 33
    assert {path for path in METHOD_RULES if path.startswith("/tandem.")} == ours


def test_only_health_is_open_and_peers_have_roles() -> None:
    for path, rule in METHOD_RULES.items():
        assert (rule.access is Access.OPEN) == path.startswith("/grpc.health.")
        assert rule.access is not Access.PEER or rule.roles


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer ",
        "Bearer",
        ACME.text,
        f"Basic {ACME.text}",
        f"Bearer {ACME.text}x",
        f"Bearer {ACME.text[:-1]}",
        f"Bearer x{ACME.text}",
        f"Bearer {ACME.text.upper()}",
        "Bearer tandem_acme",
        "Bearer tandem_acme_",
        "Bearer tandem__x",
        f"Bearer {ACME.entry.sha256}",
        f"Bearer tandem_acme_{ACME.entry.sha256}",
        "Bearer " + "é" * 100,
        "Bearer \udc80",
    ],
)
def test_only_the_exact_key_is_known(authorization: str | None) -> None:
    with pytest.raises(Unauthenticated):
        KeyRing([ACME.entry]).find(authorization)


def test_a_key_is_found_among_many_and_is_stored_as_a_hash_only() -> None:
    keys = [issue_key(f"k-{number}", Tenant(f"t{number}")) for number in range(20)]
    ring = KeyRing([key.entry for key in keys])
    for key in keys:
        assert ring.find(f"Bearer {key.text}") == key.entry
        assert key.entry.sha256 == hashlib.sha256(key.text.encode()).hexdigest()
        assert key.text not in repr(key)
        assert key.text.split("_", 2)[2] not in repr(key.entry)
    assert len({key.text for key in keys}) == 20


@pytest.mark.parametrize(
    "changes", [{"id": "has_underscore"}, {"id": ""}, {"sha256": "12"}, {"tenant": ""}, {"secret": "x"}]
)
def test_a_bad_key_entry_is_refused(changes: dict[str, str]) -> None:
    good = {"id": "a", "tenant": "t", "sha256": "0" * 64}
    ApiKey.model_validate(good)
    with pytest.raises(ValidationError):
        ApiKey.model_validate(good | changes)


def test_the_hash_of_nothing_is_no_key() -> None:
    """The stand-in for unknown ids must not be a way in."""
    with pytest.raises(Unauthenticated):
        KeyRing([]).find("Bearer tandem_x_" + "0" * 64)


def test_roles_come_from_our_names_only() -> None:
    names = [b"localhost", b"router", f"{ROLE_URI}router".encode(), b"spiffe://other/role/decode", b"\xff"]
    assert roles_of({"x509_subject_alternative_name": names}) == {PeerRole.ROUTER}
    assert roles_of({"x509_common_name": [f"{ROLE_URI}router".encode()]}) == frozenset()
    assert roles_of({"x509_subject_alternative_name": [f"{ROLE_URI}king".encode()]}) == frozenset()
    assert roles_of({}) == frozenset()
