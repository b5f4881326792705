"""The parts the linter stands on: quantities, label selection, closed schemas, the judgement of an edge."""

from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.deploy.edge_rules import allowed
from tests.unit.deploy.pod_rules import quantity
from tests.unit.deploy.schema_rules import close
from tests.unit.deploy.selectors import Pod, selects

_LABELS = st.dictionaries(st.sampled_from("abc"), st.sampled_from("xyz"), max_size=3)


@pytest.mark.parametrize(
    ("text", "value"),
    [(1, 1), ("250m", 0.25), ("64Mi", 2**26), ("1.5Gi", 1.5 * 2**30), ("2G", 2e9), ("3k", 3000), ("1Ti", 2**40)],
)
def test_quantities(text: str | int, value: float) -> None:
    assert quantity(text) == value


@pytest.mark.parametrize("text", ["", "4 GB", "Mi", "-1", "1K"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"quantity|convert"):
        quantity(text)


@given(labels=_LABELS)
def test_empty_selector_matches_everything(labels: dict[str, str]) -> None:
    assert selects({}, labels)


@given(labels=_LABELS, wanted=_LABELS)
def test_labels_match_when_they_are_all_there(labels: dict[str, str], wanted: dict[str, str]) -> None:
    assert selects({"matchLabels": wanted}, labels) == (wanted.items() <= labels.items())


@given(labels=_LABELS, key=st.sampled_from("abc"), values=st.lists(st.sampled_from("xyz"), min_size=1))
def test_operators_are_each_others_opposites(labels: dict[str, str], key: str, values: list[str]) -> None:
    def holds(operator: str) -> bool:
        return selects({"matchExpressions": [{"key": key, "operator": operator, "values": values}]}, labels)

    assert holds("In") != holds("NotIn")
    assert holds("Exists") != holds("DoesNotExist")
    assert holds("Exists") or not holds("In")


def test_unknown_operator_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown operator Gt"):
        selects({"matchExpressions": [{"key": "a", "operator": "Gt"}]}, {"a": "1"})


def _errors(schema: dict[str, Any], value: object) -> list[str]:
    return [error.message for error in jsonschema.Draft202012Validator(close(schema)).iter_errors(value)]


def test_unknown_fields_are_refused_at_every_depth() -> None:
    schema = {
        "type": "object",
        "properties": {
            "list": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}}},
            "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"a": {}}}},
        },
    }
    assert _errors(schema, {"list": [{"a": "x"}], "map": {"any": {"a": 1}}}) == []
    assert len(_errors(schema, {"other": 1})) == 1
    assert len(_errors(schema, {"list": [{"b": "x"}]})) == 1
    assert len(_errors(schema, {"map": {"any": {"b": 1}}})) == 1


def test_objects_that_keep_unknown_fields_stay_open() -> None:
    schema = {"type": "object", "properties": {"a": {}}, "x-kubernetes-preserve-unknown-fields": True}
    assert _errors(schema, {"b": 1}) == []


def test_a_field_may_be_called_properties_or_enum() -> None:
    schema = {"type": "object", "properties": {"properties": {"type": "string"}, "enum": {"type": "string"}}}
    assert _errors(schema, {"properties": "x", "enum": "y"}) == []
    assert len(_errors(schema, {"properties": 1})) == 1


def test_whole_numbers_or_strings_and_nulls() -> None:
    either = {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True}
    assert _errors(either, 8080) == _errors(either, "http") == []
    assert len(_errors(either, 1.5)) == 1
    assert _errors({"type": "string", "nullable": True}, None) == []
    assert len(_errors({"type": "string"}, None)) == 1


def _pod(name: str) -> Pod:
    return Pod(name=name, labels={"app": name}, spec={}, ray_start_params={}, is_head=False, min_replicas=1)


def _policy(name: str, **spec: object) -> dict[str, Any]:
    return {"kind": "NetworkPolicy", "spec": {"podSelector": {"matchLabels": {"app": name}}, **spec}}


def _rule(side: str, peer: dict[str, Any], first: int, last: int) -> dict[str, Any]:
    return {side: [peer], "ports": [{"protocol": "TCP", "port": first, "endPort": last}]}


def test_pods_that_no_policy_selects_are_open() -> None:
    assert allowed([], _pod("a"), _pod("b"), 80)


def test_an_edge_needs_both_sides() -> None:
    peer: dict[str, Any] = {"podSelector": {}}
    out = _policy("a", policyTypes=["Egress"], egress=[_rule("to", peer, 80, 90)])
    into = _policy("b", policyTypes=["Ingress"], ingress=[_rule("from", peer, 85, 95)])
    assert [port for port in range(78, 98) if allowed([out, into], _pod("a"), _pod("b"), port)] == list(range(85, 91))


def test_policies_add_up_and_denial_alone_closes() -> None:
    denial = _policy("b", policyTypes=["Ingress"])
    opening = _policy("b", policyTypes=["Ingress"], ingress=[_rule("from", {"podSelector": {}}, 80, 80)])
    assert not allowed([denial], _pod("a"), _pod("b"), 80)
    assert allowed([denial, opening], _pod("a"), _pod("b"), 80)


@pytest.mark.parametrize("peer", [{"namespaceSelector": {}}, {"ipBlock": {"cidr": "0.0.0.0/0"}}], ids=str)
def test_peers_elsewhere_are_not_pods_of_the_release(peer: dict[str, Any]) -> None:
    opening = _policy("b", policyTypes=["Ingress"], ingress=[_rule("from", peer, 80, 80)])
    assert not allowed([opening], _pod("a"), _pod("b"), 80)
