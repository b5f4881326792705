"""Every combination of values renders, has no finding, and holds what those values ask for."""

import json
from pathlib import Path

import helm_python
import jsonschema
import pytest
import yaml

from tests.unit.deploy.chart import CHART, COMBINATIONS, NAMESPACE, OPEN, POLICY, Values, notes, only, render
from tests.unit.deploy.manifest_lint import lint
from tests.unit.deploy.pod_rules import PROBES
from tests.unit.deploy.schema_rules import custom_kinds
from tests.unit.deploy.selectors import pods_of


@pytest.mark.parametrize("name", COMBINATIONS)
def test_render_has_no_finding(name: str) -> None:
    assert lint(render(COMBINATIONS[name])) == []


@pytest.mark.parametrize("name", COMBINATIONS)
def test_every_object_is_named_once_and_lies_in_the_namespace(name: str) -> None:
    manifests = render(COMBINATIONS[name])
    names = [(m["kind"], m["metadata"]["name"]) for m in manifests]
    assert len(names) == len(set(names))
    assert {m["metadata"]["namespace"] for m in manifests} == {NAMESPACE}
    assert all(len(m["metadata"]["name"]) <= 63 for m in manifests)


def test_helm_lints_it() -> None:
    report = helm_python.lint(CHART, strict=True)
    assert report["errors"] == []


def test_default_values_satisfy_their_schema() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.Draft7Validator(schema).validate(yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8")))


def _objects(schema: object, path: str = "$") -> list[str]:
    """Paths of the objects in a schema that accept unknown keys."""
    if isinstance(schema, list):
        return [open_ for i, item in enumerate(schema) for open_ in _objects(item, f"{path}[{i}]")]
    if not isinstance(schema, dict):
        return []
    here = (
        [path]
        if "properties" in schema and "type" in schema and schema.get("additionalProperties") is not False
        else []
    )
    return here + [open_ for key, value in schema.items() for open_ in _objects(value, f"{path}.{key}")]


def test_schema_closes_every_object_it_describes() -> None:
    assert _objects(json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "values",
    [
        {"worker": {"replicas": 2}},
        {"router": {"prot": 8700}},
        {"router": {"port": 80}},
        {"workers": {"resources": {"cpu": 1.5}}},
        {"workers": {"resources": {"memory": "4 gigabytes"}}},
        {"ray": {"version": "2.56.0"}},
        {"ray": {"version": "latest"}},
        {"redis": {"enabled": True}},
        {"redis": {"enabled": True, "urlSecret": {"name": "redis", "key": "url"}}},
        {"pools": {"decode": {"replicas": 0}}},
        {"fullnameOverride": "has.dots"},
        {"image": {"digest": "sha256:short"}},
        {"model": {"dtype": "int8"}},
        {"networkPolicy": {"clients": [{}]}},
        {"pinned": {"prefill": {"enabled": True, "cpus": 4}}},
        {"policy": {"kind": "AutoscalingPolicy"}},
        {"policy": ""},
        {"controller": {"enabled": True, "policy": "p.yaml"}},
    ],
    ids=str,
)
def test_wrong_values_are_refused(values: Values) -> None:
    with pytest.raises(helm_python.HelmValuesError):
        render(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"router": {"auth": {"secretName": None}}}, "open to the pod network"),
        ({"router": {"tls": {"secretName": None}}}, "open to the pod network"),
        ({"internalTls": {"secretName": None}}, "open to the pod network"),
        ({"workers": {"replicas": 1}}, "raise its replicas"),
        ({"policy": {**POLICY, "spec": {"mode": False}}}, "Write mode"),
        ({"workers": {"replicas": 4, "maxReplicas": 3}}, "does not hold"),
        ({"workers": {"replicas": 4, "minReplicas": 5}}, "does not hold"),
    ],
    ids=str,
)
def test_contradictions_are_refused_with_advice(values: Values, message: str) -> None:
    with pytest.raises(helm_python.HelmError, match=message):
        render(values)


def _replicas(values: Values) -> dict[str, int]:
    spec = only(render(values), "RayCluster")["spec"]
    return {group["groupName"]: group["replicas"] for group in spec["workerGroupSpecs"]}


def test_pools_share_one_generic_group() -> None:
    pools = {"prefill": {"replicas": 2}, "decode": {"replicas": 3}}
    assert _replicas({"pools": pools}) == {"router": 1, "workers": 5}


def test_pinned_pools_have_their_own_groups() -> None:
    assert _replicas(COMBINATIONS["pinned"]) == {"router": 1, "prefill": 2, "decode": 3}
    assert _replicas(COMBINATIONS["one pinned"]) == {"router": 1, "workers": 3, "prefill": 2}


def test_spare_generic_workers_may_stand_beside_pinned_groups() -> None:
    values = {**COMBINATIONS["pinned"], "workers": {"replicas": 2}}
    assert _replicas(values) == {"router": 1, "workers": 2, "prefill": 2, "decode": 3}
    assert lint(render(values)) == []


def test_pinned_group_takes_unset_keys_from_the_generic_one() -> None:
    manifests = render(COMBINATIONS["pinned"])
    limits = {pod.name: pod.spec["containers"][0]["resources"]["limits"] for pod in pods_of(manifests)}
    assert limits["prefill"] == {"cpu": 8, "memory": "64Gi", "ephemeral-storage": "12Gi", "nvidia.com/gpu": 1}
    assert limits["decode"] == {"cpu": 2, "memory": "4Gi", "ephemeral-storage": "12Gi"}


def test_gpus_reach_kubernetes_ray_and_the_pools() -> None:
    manifests = render(COMBINATIONS["gpu"])
    worker = next(pod for pod in pods_of(manifests) if pod.name == "workers")
    config = yaml.safe_load(only(manifests, "ConfigMap", "demo-tandem-config")["data"]["cluster.yaml"])
    assert worker.spec["runtimeClassName"] == "nvidia"
    assert worker.spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert worker.ray_start_params["num-gpus"] == "1"
    assert config["pools"]["prefill"]["gpus"] == 1
    assert worker.spec["containers"][0]["image"] == "tandem:0.1.0-cuda"


def test_one_worker_fills_one_pod() -> None:
    group_of_role = {"defaults": {"prefill": "workers", "decode": "workers"}, "pinned": {"prefill": "prefill"}}
    for name, groups in group_of_role.items():
        manifests = render(COMBINATIONS[name])
        pools = yaml.safe_load(only(manifests, "ConfigMap", "demo-tandem-config")["data"]["cluster.yaml"])["pools"]
        pods = {pod.name: pod for pod in pods_of(manifests)}
        for role, group in groups.items():
            assert str(pools[role]["cpus"]) == pods[group].ray_start_params["num-cpus"]


def _router_probes(values: Values) -> dict[str, str]:
    (router,) = [pod for pod in pods_of(render(values)) if pod.name == "router"]
    container = router.spec["containers"][0]
    return {name: next(h for h in ("grpc", "tcpSocket", "exec") if h in container[name]) for name in PROBES}


def test_router_without_tls_is_asked_over_grpc() -> None:
    assert set(_router_probes(OPEN).values()) == {"grpc"}


def test_router_with_tls_is_asked_by_its_own_probe_since_the_kubelet_speaks_plain_text_only() -> None:
    kinds = _router_probes({})
    assert kinds == {"startupProbe": "tcpSocket", "livenessProbe": "tcpSocket", "readinessProbe": "exec"}
    manifests = render({})
    (router,) = [pod for pod in pods_of(manifests) if pod.name == "router"]
    python, script, target, _, authority = router.spec["containers"][0]["readinessProbe"]["exec"]["command"]
    assert python == "/opt/tandem/bin/python"
    assert script.removeprefix("/etc/tandem/config/") in only(manifests, "ConfigMap", "demo-tandem-config")["data"]
    assert target == "demo-tandem.serving.svc:8700"
    assert router.spec["hostAliases"] == [{"ip": "127.0.0.1", "hostnames": ["demo-tandem.serving.svc"]}]
    assert any(m["mountPath"] == authority.rsplit("/", 1)[0] for m in router.mounts())


def test_commands_that_replace_the_generated_one_say_so() -> None:
    for group in only(render({}), "RayCluster")["spec"]["workerGroupSpecs"]:
        replaced = "command" in group["template"]["spec"]["containers"][0]
        annotations = group["template"]["metadata"].get("annotations", {})
        assert (annotations.get("ray.io/overwrite-container-cmd") == "true") == replaced


def test_changed_configuration_changes_the_router_template() -> None:
    def digest(values: Values) -> str:
        groups = only(render(values), "RayCluster")["spec"]["workerGroupSpecs"]
        return str(groups[0]["template"]["metadata"]["annotations"]["tandem/config-digest"])

    assert digest({}) == digest({})
    assert digest({}) != digest({"engine": {"block_size": 32}})


def test_notes_name_the_service_and_warn_of_an_open_port() -> None:
    assert "service/demo-tandem 8700:8700" in notes({})
    assert "WARNING" not in notes({})
    assert "WARNING: router.insecure" in notes(COMBINATIONS["insecure"])


def test_release_name_that_holds_the_chart_name_is_not_doubled() -> None:
    assert only(render({}, release="tandem-a"), "RayCluster")["metadata"]["name"] == "tandem-a"
    assert only(render({"fullnameOverride": "x"}), "RayCluster")["metadata"]["name"] == "x"


def test_ray_version_is_the_one_in_the_images() -> None:
    version = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))["ray"]["version"]
    docker = CHART.parents[1] / "docker"
    for path in (docker / "Dockerfile.cpu", docker / "Dockerfile.cuda"):
        assert f"ARG RAY_VERSION={version}\n" in path.read_text(encoding="utf-8")


def test_every_custom_kind_has_a_schema_and_its_licence() -> None:
    assert {kind for _, kind in custom_kinds()} == {"RayCluster", "PodMonitor", "PrometheusRule"}
    folder = Path(__file__).parents[2] / "data" / "k8s"
    assert all((path.parent / "LICENSE").is_file() for path in folder.glob("*/*.json"))
