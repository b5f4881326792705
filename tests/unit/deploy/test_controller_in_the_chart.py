"""The chart's controller: a policy that it accepts, beside its certificate, in the one pod where Ray may place it."""

import json
from typing import Any

import pytest
import yaml

from tandem.cluster.config.model import ControllerSection
from tandem.controller.policy.bounds import Split
from tandem.controller.policy.model import AutoscalingPolicy, Mode
from tandem.core.config.yaml_file import parse_yaml_config
from tests.unit.deploy.chart import CHART, COMBINATIONS, OPEN, PINNED, POLICY, Manifest, Values, notes, only, render
from tests.unit.deploy.selectors import Pod, pods_of

POLICY_FOLDER, CERTIFICATE_FOLDER = "/etc/tandem/policy", "/etc/tandem/controller"
WITHOUT: frozenset[str] = frozenset({"no controller", "aggregated"})


def _policy(values: Values) -> AutoscalingPolicy:
    text = only(render(values), "ConfigMap", "demo-tandem-policy")["data"]["policy.yaml"]
    return parse_yaml_config(text, AutoscalingPolicy, name="policy.yaml")


def _cluster(manifests: list[Manifest]) -> dict[str, Any]:
    text = only(manifests, "ConfigMap", "demo-tandem-config")["data"]["cluster.yaml"]
    document: dict[str, Any] = yaml.safe_load(text)
    return document


def _router(manifests: list[Manifest]) -> Pod:
    (router,) = [pod for pod in pods_of(manifests) if pod.name == "router"]
    return router


@pytest.mark.parametrize("name", sorted(COMBINATIONS.keys() - WITHOUT))
def test_every_combination_has_a_policy_that_the_controller_takes_and_the_start_is_within_it(name: str) -> None:
    values = COMBINATIONS[name]
    policy = _policy(values)
    if "policy" not in values:
        pools = _cluster(render(values))["pools"]
        start = Split(prefill=pools["prefill"]["replicas"], decode=pools["decode"]["replicas"])
        assert policy.spec.bounds_during(()).forbids(start) == ""


@pytest.mark.parametrize("name", sorted(COMBINATIONS.keys() - {"no controller"}))
def test_the_controller_is_on_and_its_files_are_mounted_in_the_router_pod_only(name: str) -> None:
    manifests = render(COMBINATIONS[name])
    section = ControllerSection.model_validate(_cluster(manifests)["controller"])
    assert section.enabled
    mounts = {mount["mountPath"]: mount for mount in _router(manifests).mounts()}
    assert (section.policy is not None) == (name not in WITHOUT)
    tls = section.tls
    files = [section.policy, *((tls.certificate, tls.key, tls.ca) if tls else ())]
    for file in filter(None, files):
        assert "subPath" not in mounts[str(file.parent)], "the kubelet swaps folders, not single files"
    others = [mount["mountPath"] for pod in pods_of(manifests) if pod.name != "router" for mount in pod.mounts()]
    assert not {POLICY_FOLDER, CERTIFICATE_FOLDER} & set(others)


def test_the_mounted_policy_is_the_rendered_one() -> None:
    manifests = render({})
    volumes = {volume["name"]: volume for volume in _router(manifests).spec["volumes"]}
    mounts = {mount["mountPath"]: mount["name"] for mount in _router(manifests).mounts()}
    assert volumes[mounts[POLICY_FOLDER]]["configMap"]["name"] == "demo-tandem-policy"
    assert volumes[mounts[CERTIFICATE_FOLDER]]["secret"]["secretName"] == "tandem-controller-tls"


def test_ray_may_place_it_where_the_router_pod_offers_the_resource() -> None:
    resource = _cluster(render({}))["controller"]["ray_resource"]
    script = (CHART / "files" / "start-router.sh").read_text(encoding="utf-8")
    (offered,) = [line for line in script.splitlines() if "--resources=" in line]
    assert json.loads(offered.split("--resources=")[1].split("'")[0]) == {resource: 1}
    assert not any("resources" in pod.ray_start_params for pod in pods_of(render({}))), "nobody else offers it"


def test_without_a_controller_nothing_of_it_is_there() -> None:
    manifests = render(COMBINATIONS["no controller"])
    assert "controller" not in _cluster(manifests)
    assert [m["metadata"]["name"] for m in manifests if m["kind"] == "ConfigMap"] == ["demo-tandem-config"]
    assert not {POLICY_FOLDER, CERTIFICATE_FOLDER} & {mount["mountPath"] for mount in _router(manifests).mounts()}


def test_a_policy_is_taken_over_whole_as_a_document_or_as_text() -> None:
    assert _policy({"policy": POLICY}).spec.mode is Mode.OFF
    text = COMBINATIONS["policy as text"]["policy"]
    assert only(render({"policy": text}), "ConfigMap", "demo-tandem-policy")["data"]["policy.yaml"] == text
    assert _policy({"policy": POLICY}).metadata.name == "ours"


def test_the_charts_policy_switches_generic_workers_and_leaves_pinned_ones() -> None:
    generic = _policy({"pools": {"prefill": {"replicas": 2}, "decode": {"replicas": 3}}}).spec
    assert generic.role_switch.enabled
    assert (generic.pools.prefill.max_replicas, generic.pools.decode.max_replicas) == (4, 4)
    pinned = _policy(PINNED).spec
    assert not pinned.role_switch.enabled
    assert list(pinned.bounds_during(()).splits()) == [Split(prefill=2, decode=3)]
    spare = _policy({**COMBINATIONS["one pinned"], "workers": {"replicas": 5}}).spec
    assert list(spare.bounds_during(()).splits()) == [Split(prefill=2, decode=count) for count in (3, 4, 5)]


def test_a_changed_policy_makes_no_new_pods_and_a_changed_configuration_does() -> None:
    def templates(values: Values) -> Manifest:
        return only(render(values), "RayCluster")

    other = {**POLICY, "metadata": {"name": "theirs"}}
    assert templates({"policy": POLICY}) == templates({"policy": other})
    assert templates({"policy": POLICY}) != templates({"policy": POLICY, "engine": {"block_size": 32}})


def test_a_controller_shares_the_certificate_of_the_pods_only_when_told_to() -> None:
    assert _cluster(render({}))["controller"]["tls"]["key"] == f"{CERTIFICATE_FOLDER}/tls.key"
    assert "tls" not in _cluster(render(COMBINATIONS["one certificate"]))["controller"]
    assert "tls" not in _cluster(render(OPEN))["controller"], "there is nothing to prove on plain connections"


def test_notes_say_whose_policy_holds() -> None:
    assert "ConfigMap demo-tandem-policy (the chart's own" in notes({})
    assert "the chart's own" not in notes({"policy": POLICY})
    assert "waits for a policy" in notes(COMBINATIONS["aggregated"])
    assert "controller" not in notes(COMBINATIONS["no controller"])
