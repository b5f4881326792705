"""Mistakes in where the chart puts the controller and its files, each planted in a clean render and caught."""

import copy

import pytest

from tests.unit.deploy.chart import Manifest, only, render
from tests.unit.deploy.manifest_lint import lint
from tests.unit.deploy.test_planted_mistakes import Plant, container


def controller_on_any_node(m: list[Manifest]) -> None:
    data = only(m, "ConfigMap", "demo-tandem-config")["data"]
    data["cluster.yaml"] = data["cluster.yaml"].replace("ray_resource: tandem_router", "lease: x")


def policy_that_is_not_mounted(m: list[Manifest]) -> None:
    mounts = container(m, "router")["volumeMounts"]
    mounts[:] = [mount for mount in mounts if mount["name"] != "policy"]


def certificate_of_the_controller_elsewhere(m: list[Manifest]) -> None:
    mounts = container(m, "router")["volumeMounts"]
    next(mount for mount in mounts if mount["name"] == "controller-tls")["mountPath"] = "/etc/tandem/control"


def policy_mounted_as_a_single_file(m: list[Manifest]) -> None:
    mount = next(mount for mount in container(m, "router")["volumeMounts"] if mount["name"] == "policy")
    mount.update(mountPath="/etc/tandem/policy/policy.yaml", subPath="policy.yaml")


@pytest.mark.parametrize(
    ("mistake", "rule"),
    [
        (controller_on_any_node, "controller-place"),
        (policy_that_is_not_mounted, "controller-files"),
        (certificate_of_the_controller_elsewhere, "controller-files"),
        (policy_mounted_as_a_single_file, "controller-files"),
    ],
)
def test_a_planted_mistake_is_found(mistake: Plant, rule: str) -> None:
    manifests = copy.deepcopy(render({}))
    assert lint(manifests) == []
    mistake(manifests)
    assert rule in {finding.rule for finding in lint(manifests)}
