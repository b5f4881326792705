"""Prometheus finds the page of the router and of every worker, and may reach it."""

import pytest
import yaml

from tandem.cluster.config.model import ClusterConfig
from tandem.cluster.plan import plan_added_worker, plan_workers
from tandem.cluster.programs.config import RegistryTarget
from tandem.core.prepared_model import PreparedModel
from tandem.core.types import Role
from tests.unit.cluster.test_plan import MODEL
from tests.unit.deploy.chart import COMBINATIONS, MONITORED, Manifest, Values, only, render
from tests.unit.deploy.selectors import Pod, pods_of, selects

PORTS: Values = {"ports": {"workerMetrics": 9777}}
PROMETHEUS = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]


@pytest.fixture(params=["monitored", "everything", "other port"])
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    return render({**MONITORED, **PORTS} if request.param == "other port" else COMBINATIONS[request.param])


def _scraped(manifests: list[Manifest], name: str) -> dict[str, int]:
    """Pods that a monitor selects, with the port that it scrapes."""
    spec = only(manifests, "PodMonitor", name)["spec"]
    (endpoint,) = spec["podMetricsEndpoints"]
    return {
        pod.name: pod.ports()[endpoint["port"]] for pod in pods_of(manifests) if selects(spec["selector"], pod.labels)
    }


def _config(manifests: list[Manifest]) -> ClusterConfig:
    return ClusterConfig.model_validate(
        yaml.safe_load(only(manifests, "ConfigMap", "demo-tandem-config")["data"]["cluster.yaml"])
    )


def _workers(manifests: list[Manifest]) -> list[Pod]:
    return [pod for pod in pods_of(manifests) if pod.labels["tandem/component"] == "worker"]


def test_every_worker_pod_is_scraped_where_its_worker_shows_its_page(manifests: list[Manifest]) -> None:
    config, registry = _config(manifests), RegistryTarget(kind="redis", url="unix:///x/s", namespace="ns")
    model: PreparedModel = MODEL
    planned = plan_workers(config, model, registry)
    added = plan_added_worker(config, model, registry, worker_id="decode-9", role=Role.DECODE)
    scraped = _scraped(manifests, "demo-tandem-workers")
    assert sorted(scraped) == sorted(pod.name for pod in _workers(manifests))
    assert set(scraped.values()) == {worker.metrics_port for worker in (*planned, added)}
    assert {worker.metrics_host for worker in (*planned, added)} == {"0.0.0.0"}, "not on loopback"


def test_the_router_has_a_job_of_its_own(manifests: list[Manifest]) -> None:
    assert _scraped(manifests, "demo-tandem") == {"router": _config(manifests).router.metrics_port}
    rules = only(manifests, "PrometheusRule")["spec"]["groups"][0]["rules"]
    (down,) = [rule for rule in rules if rule["alert"] == "TandemRouterDown"]
    assert 'job="serving/demo-tandem"' in down["expr"]


def _open_to_prometheus(manifests: list[Manifest], pod: Pod) -> set[int]:
    policies = [m["spec"] for m in manifests if m["kind"] == "NetworkPolicy"]
    rules = [rule for spec in policies if selects(spec["podSelector"], pod.labels) for rule in spec.get("ingress", [])]
    return {port["port"] for rule in rules if rule["from"] == PROMETHEUS for port in rule["ports"]}


def test_prometheus_reaches_the_pages_and_nothing_else(manifests: list[Manifest]) -> None:
    config = _config(manifests)
    for pod in _workers(manifests):
        assert _open_to_prometheus(manifests, pod) == {config.workers.metrics_port}
    others = {p.name: _open_to_prometheus(manifests, p) for p in pods_of(manifests) if p not in _workers(manifests)}
    assert others == {"head": set(), "router": {config.router.metrics_port}}


def test_nobody_else_reaches_them_and_without_prometheus_nobody_does() -> None:
    manifests = render({"networkPolicy": {"prometheus": []}})
    policies = [m["spec"] for m in manifests if m["kind"] == "NetworkPolicy"]
    ports = [port["port"] for spec in policies for rule in spec.get("ingress", []) for port in rule["ports"]]
    assert _config(manifests).workers.metrics_port not in ports
