"""The chart's two options of Ray itself: the head's state in a Redis, and pods that come and go with the workers."""

from typing import Any

import helm_python
import pytest
import yaml

from tandem.controller.policy.model import AutoscalingPolicy
from tandem.core.config.yaml_file import parse_yaml_config
from tests.unit.deploy.chart import COMBINATIONS, KEPT_HEAD, PINNED, POLICY, SCALED, Manifest, Values, only, render
from tests.unit.deploy.selectors import Pod, pods_of, selects

TIMEOUT = "RAY_gcs_rpc_server_reconnect_timeout_s"
CREDENTIAL = "/var/run/secrets/kubernetes.io/serviceaccount"


def _spec(values: Values) -> Manifest:
    spec: Manifest = only(render(values), "RayCluster")["spec"]
    return spec


def _bounds(values: Values) -> dict[str, tuple[int, int, int]]:
    """Least, first and most pods of each worker group."""
    groups = _spec(values)["workerGroupSpecs"]
    return {g["groupName"]: (g["minReplicas"], g["replicas"], g["maxReplicas"]) for g in groups}


def _environment(pod: Pod) -> dict[str, Any]:
    return {entry["name"]: entry.get("value") for entry in pod.spec["containers"][0]["env"]}


def _reaches(manifests: list[Manifest], policy: str) -> set[str]:
    spec = only(manifests, "NetworkPolicy", f"demo-tandem-{policy}")["spec"]
    assert spec["policyTypes"] == ["Egress"]
    return {pod.name for pod in pods_of(manifests) if selects(spec["podSelector"], pod.labels)}


def test_the_heads_state_lies_in_the_named_redis_whose_password_is_a_secret() -> None:
    assert _spec({"ray": KEPT_HEAD})["gcsFaultToleranceOptions"] == {
        "redisAddress": "redis://ray-state.data.svc:6379",
        "redisUsername": {"value": "ray"},
        "redisPassword": {"valueFrom": {"secretKeyRef": {"name": "ray-state", "key": "password"}}},
    }
    open_redis = {"faultTolerance": {"redisAddress": "ray-state:6379", "peers": [{"podSelector": {}}]}}
    assert _spec({"ray": open_redis})["gcsFaultToleranceOptions"] == {"redisAddress": "ray-state:6379"}


def test_without_it_nothing_is_said_of_it_and_nobody_waits_longer_for_a_head() -> None:
    manifests = render({})
    assert "gcsFaultToleranceOptions" not in only(manifests, "RayCluster")["spec"]
    assert not any(TIMEOUT in _environment(pod) for pod in pods_of(manifests))
    assert not any(m["metadata"]["name"].endswith("-head-state") for m in manifests)


def test_all_but_the_head_wait_for_it_as_long_as_told() -> None:
    """In the router's pod that holds for `tandem up` and the controller, too: they would end with Ray's default."""
    values = {"ray": {"faultTolerance": {**KEPT_HEAD["faultTolerance"], "headAwaySeconds": 900}}}
    waits = {pod.name: _environment(pod).get(TIMEOUT) for pod in pods_of(render(values))}
    assert waits == {"head": None, "router": "900", "workers": "900"}


def test_only_the_head_reaches_its_state() -> None:
    manifests = render({"ray": KEPT_HEAD})
    assert _reaches(manifests, "head-state") == {"head"}
    (rule,) = only(manifests, "NetworkPolicy", "demo-tandem-head-state")["spec"]["egress"]
    assert rule["to"] == KEPT_HEAD["faultTolerance"]["peers"]
    assert rule["ports"] == [{"protocol": "TCP", "port": 6379}]


def test_the_autoscaler_is_off_unless_asked_for() -> None:
    spec = _spec(COMBINATIONS["room to scale"])
    assert not {"enableInTreeAutoscaling", "autoscalerOptions"} & spec.keys()
    assert _spec(COMBINATIONS["scaled"])["enableInTreeAutoscaling"] is True


def test_only_the_autoscalers_container_holds_a_credential_and_only_its_pod_reaches_the_api() -> None:
    manifests = render(COMBINATIONS["scaled"])
    pods = {pod.name: pod for pod in pods_of(manifests)}
    (autoscaler,) = pods["head"].injected
    assert CREDENTIAL in {mount["mountPath"] for mount in autoscaler["volumeMounts"]}
    own = [m["mountPath"] for pod in pods.values() for c in pod.containers for m in c["volumeMounts"]]
    assert CREDENTIAL not in own
    assert pods["head"].spec["serviceAccountName"] == "demo-tandem-head"
    assert {pods[name].spec["serviceAccountName"] for name in ("router", "workers")} == {"demo-tandem"}
    assert not any(pod.spec["automountServiceAccountToken"] for pod in pods.values())
    assert _reaches(manifests, "autoscaler") == {"head"}
    (rule,) = only(manifests, "NetworkPolicy", "demo-tandem-autoscaler")["spec"]["egress"]
    assert rule["to"] == SCALED["autoscaler"]["apiServer"]["peers"]
    assert {entry["port"] for entry in rule["ports"]} == {443, 6443}


def test_pods_follow_the_bounds_of_the_policy_its_schedules_and_its_budget() -> None:
    text = COMBINATIONS["scaled by a policy"]["policy"]
    assert yaml.safe_load(text)["spec"]["budget"] == {"max": 12}
    assert _bounds({"ray": SCALED, "policy": text}) == {"router": (1, 1, 1), "workers": (2, 2, 12)}
    without_budget = yaml.safe_load(text)
    del without_budget["spec"]["budget"]
    assert _bounds({"ray": SCALED, "policy": without_budget})["workers"] == (2, 2, 16)
    without_budget["spec"]["schedules"][0]["pools"]["decode"]["maxReplicas"] = 20
    assert _bounds({"ray": SCALED, "policy": without_budget})["workers"] == (2, 2, 26)
    assert _bounds({"policy": text})["workers"] == (2, 2, 2), "no autoscaler, no such pods"


def test_a_budget_of_accelerators_bounds_no_pods_where_a_worker_takes_several() -> None:
    document = yaml.safe_load(COMBINATIONS["scaled by a policy"]["policy"])
    for pool in document["spec"]["pools"].values():
        pool["acceleratorsPerWorker"] = 2
    assert _bounds({"ray": SCALED, "policy": document})["workers"] == (2, 2, 16)


def test_values_win_over_the_policy_and_pinned_groups_follow_their_own_pool() -> None:
    text = COMBINATIONS["scaled by a policy"]["policy"]
    values = {"ray": SCALED, "policy": text, "workers": {"minReplicas": 1, "maxReplicas": 5}}
    assert _bounds(values)["workers"] == (1, 2, 5)
    pools = {"prefill": {"minReplicas": 2, "maxReplicas": 4}, "decode": {"minReplicas": 1, "maxReplicas": 9}}
    policy = {**POLICY, "spec": {**POLICY["spec"], "pools": pools}}
    found = _bounds({**PINNED, "ray": SCALED, "policy": policy})
    assert found == {"router": (1, 1, 1), "prefill": (2, 2, 4), "decode": (1, 3, 9)}


def test_the_charts_own_policy_makes_use_of_all_pods_that_may_come() -> None:
    text = only(render(COMBINATIONS["scaled"]), "ConfigMap", "demo-tandem-policy")["data"]["policy.yaml"]
    spec = parse_yaml_config(text, AutoscalingPolicy, name="policy.yaml").spec
    assert spec.budget is not None
    assert (spec.budget.min, spec.budget.max) == (2, 8)
    assert (spec.pools.prefill.max_replicas, spec.pools.decode.max_replicas) == (7, 7)


@pytest.mark.parametrize(
    "ray",
    [
        {"faultTolerance": {"redisAddress": "ray-state:6379"}},
        {"faultTolerance": {**KEPT_HEAD["faultTolerance"], "redisAddress": "redis://ray:secret@ray-state:6379"}},
        {"faultTolerance": {**KEPT_HEAD["faultTolerance"], "redisAddress": "ray-state"}},
        {"faultTolerance": {**KEPT_HEAD["faultTolerance"], "password": "secret"}},
        {"autoscaler": {"enabled": True}},
        {"autoscaler": {**SCALED["autoscaler"], "version": "v3"}},
    ],
    ids=str,
)
def test_wrong_values_are_refused(ray: dict[str, Any]) -> None:
    with pytest.raises(helm_python.HelmValuesError):
        render({"ray": ray})
