"""Who may call which method: one table, deny by default, and the decision itself. Zero I/O.

A server refuses to start with a method that is not in the table.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tandem.core.errors import ConfigError, PermissionDenied, Unauthenticated
from tandem.core.ids import LOCAL_TENANT, Tenant
from tandem.rpc.config import ApiKey
from tandem.rpc.keys import KeyRing


class PeerRole(StrEnum):
    """What a client certificate says its holder is."""

    ROUTER = "router"
    PREFILL = "prefill"
    DECODE = "decode"
    CONTROLLER = "controller"
    OPERATOR = "operator"


class Access(StrEnum):
    """What a method asks of its caller."""

    OPEN = "open"  # nothing: health checks
    TENANT = "tenant"  # a key, where keys are configured
    OPERATOR = "operator"  # a key marked as operator, or an operator's certificate
    PEER = "peer"  # a certificate with one of the rule's roles


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What one method asks for."""

    access: Access
    roles: frozenset[PeerRole] = frozenset()


_OPEN: Final = Rule(access=Access.OPEN)
_TENANT: Final = Rule(access=Access.TENANT)
_OPERATOR: Final = Rule(access=Access.OPERATOR, roles=frozenset({PeerRole.OPERATOR, PeerRole.CONTROLLER}))
_TO_WORKER: Final = Rule(access=Access.PEER, roles=frozenset({PeerRole.ROUTER, PeerRole.CONTROLLER}))
_CONTROL: Final = Rule(access=Access.PEER, roles=frozenset({PeerRole.CONTROLLER}))
_FROM_WORKER: Final = Rule(access=Access.PEER, roles=frozenset({PeerRole.PREFILL, PeerRole.DECODE}))
_REGISTRY_READ: Final = Rule(
    access=Access.PEER, roles=frozenset({PeerRole.ROUTER, PeerRole.CONTROLLER, PeerRole.PREFILL, PeerRole.DECODE})
)

METHOD_RULES: Final[Mapping[str, Rule]] = {
    "/tandem.inference.v1.InferenceService/Generate": _TENANT,
    "/tandem.inference.v1.InferenceService/StreamGenerate": _TENANT,
    "/tandem.inference.v1.InferenceService/Tokenize": _TENANT,
    "/tandem.inference.v1.InferenceService/Detokenize": _TENANT,
    "/tandem.inference.v1.InferenceService/FlushPrefixCache": _TENANT,
    "/tandem.inference.v1.ModelService/ListModels": _TENANT,
    "/tandem.inference.v1.ModelService/GetModel": _TENANT,
    "/tandem.worker.v1.WorkerService/Attach": _TO_WORKER,
    "/tandem.worker.v1.WorkerService/GetInfo": _TO_WORKER,
    "/tandem.worker.v1.WorkerService/Drain": _TO_WORKER,
    "/tandem.worker.v1.WorkerService/SetRole": _CONTROL,
    "/tandem.worker.v1.CacheService/WatchKvEvents": _TO_WORKER,
    "/tandem.worker.v1.CacheService/FlushCache": _TO_WORKER,
    "/tandem.worker.v1.CacheService/GetCacheStats": _TO_WORKER,
    "/tandem.admin.v1.CacheAdminService/GetCacheStatus": _OPERATOR,
    "/tandem.admin.v1.CacheAdminService/FlushPrefixCache": _OPERATOR,
    "/tandem.admin.v1.RegistryService/Register": _FROM_WORKER,
    "/tandem.admin.v1.RegistryService/Deregister": _FROM_WORKER,
    "/tandem.admin.v1.RegistryService/List": _REGISTRY_READ,
    "/tandem.admin.v1.ClusterService/GetStatus": _OPERATOR,
    "/tandem.admin.v1.ClusterService/ListWorkers": _OPERATOR,
    "/tandem.admin.v1.ClusterService/DrainWorker": _OPERATOR,
    "/tandem.admin.v1.DecisionService/ListDecisions": _OPERATOR,
    "/tandem.admin.v1.DecisionService/FollowDecisions": _OPERATOR,
    "/tandem.admin.v1.DecisionService/ExplainRequest": _OPERATOR,
    "/tandem.admin.v1.DecisionService/RecordDecisions": _CONTROL,
    "/tandem.admin.v1.DecisionService/WatchCluster": _OPERATOR,
    "/tandem.admin.v1.ControlService/GetTraffic": _CONTROL,
    "/tandem.admin.v1.ControlService/SetGuidance": _CONTROL,
    "/tandem.admin.v1.ControlService/GetRecord": _CONTROL,
    "/tandem.admin.v1.ControlService/PutRecord": _CONTROL,
    "/tandem.admin.v1.ControlService/ApplyPolicy": _OPERATOR,
    "/tandem.admin.v1.ControlService/GetPolicy": _OPERATOR,
    "/grpc.health.v1.Health/Check": _OPEN,
    "/grpc.health.v1.Health/List": _OPEN,
    "/grpc.health.v1.Health/Watch": _OPEN,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": _TENANT,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """What is known about who calls: the ``authorization`` header and the roles in a verified client certificate."""

    authorization: str | None = None
    roles: frozenset[PeerRole] = frozenset()


class AccessControl:
    """The decision for one server.

    ``keys`` are the bearer keys it knows; ``mutual_tls`` says that it demands client certificates. With neither, the
    server serves loopback (or was told to be insecure) and takes everybody for the tenant ``local``.

    ``trust_peers`` is for an internal server without certificates: it listens on loopback (or was told to be insecure),
    so the parts of the cluster may call it unproven, while its operators' methods still ask for a key.
    """

    def __init__(
        self,
        *,
        keys: Sequence[ApiKey] = (),
        mutual_tls: bool = False,
        trust_peers: bool = False,
        rules: Mapping[str, Rule] = METHOD_RULES,
    ) -> None:
        self._keys = KeyRing(keys)
        self._mutual_tls = mutual_tls
        self._trust_peers = trust_peers
        self._rules = rules

    @property
    def authenticates(self) -> bool:
        """Whether callers must prove who they are."""
        return len(self._keys) > 0 or self._mutual_tls

    def require_rules(self, methods: Iterable[str]) -> None:
        """Raise ConfigError naming the methods without a rule."""
        missing = sorted(set(methods) - set(self._rules))
        if missing:
            raise ConfigError(
                f"no access rule for {', '.join(missing)}", remedy="add it to tandem.rpc.access.METHOD_RULES"
            )

    def admit(self, method: str, caller: Caller) -> Tenant:
        """Return the tenant on whose behalf ``caller`` may call ``method``.

        Raises Unauthenticated or PermissionDenied.
        """
        rule = self._rules.get(method)
        if rule is None:
            raise PermissionDenied("nobody may call this method", reason="NO_ACCESS_RULE")
        if rule.access is Access.OPEN or not self.authenticates:
            return LOCAL_TENANT
        if rule.roles & caller.roles or (rule.access is Access.PEER and self._trust_peers):
            return LOCAL_TENANT
        if rule.access is Access.PEER:
            raise PermissionDenied("only other parts of the cluster may call this method", reason="WRONG_ROLE")
        if len(self._keys) == 0:
            # A server with certificates only: the certificate was verified, but does not allow this.
            if rule.access is Access.TENANT and caller.roles:
                return LOCAL_TENANT
            raise Unauthenticated("this server knows its callers by certificate", reason="NO_CREDENTIAL")
        key = self._keys.find(caller.authorization)
        if rule.access is Access.OPERATOR and not key.operator:
            raise PermissionDenied("this key is not an operator's", reason="NOT_AN_OPERATOR")
        return key.tenant
