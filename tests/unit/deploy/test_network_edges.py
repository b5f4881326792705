"""The NetworkPolicies open exactly the edges of the design, between pods of the release."""

from itertools import product

import pytest

from tests.unit.deploy.chart import COMBINATIONS, Manifest, only, render
from tests.unit.deploy.edge_rules import allowed
from tests.unit.deploy.selectors import Pod, pods_of, selects

PUBLIC, INTERNAL, METRICS, GCS, NODE_MANAGER = 8700, 8701, 9464, 6379, 6380
WORKER_FIRST, WORKER_LAST = 40000, 41999
DASHBOARD, RAY_CLIENT, AGENT_HTTP = 8265, 10001, 6384


@pytest.fixture(scope="module", params=["defaults", "pinned", "everything"])
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    return render(COMBINATIONS[request.param])


def _pods(manifests: list[Manifest], component: str) -> list[Pod]:
    found = [pod for pod in pods_of(manifests) if pod.labels["tandem/component"] == component]
    assert found
    return found


@pytest.mark.parametrize("port", [WORKER_FIRST, WORKER_LAST])
def test_router_and_workers_reach_workers(manifests: list[Manifest], port: int) -> None:
    workers = _pods(manifests, "worker")
    assert all(allowed(manifests, source, target, port) for source, target in product(workers, workers))
    assert all(allowed(manifests, _pods(manifests, "router")[0], target, port) for target in workers)


def test_workers_register_at_the_router(manifests: list[Manifest]) -> None:
    router = _pods(manifests, "router")[0]
    assert all(allowed(manifests, worker, router, INTERNAL) for worker in _pods(manifests, "worker"))


def test_the_controller_in_the_router_pod_reaches_routers_and_workers_and_no_edge_is_left_without_it(
    manifests: list[Manifest],
) -> None:
    router = _pods(manifests, "router")[0]
    assert allowed(manifests, router, router, INTERNAL)
    assert not allowed(manifests, router, router, PUBLIC)
    without = render({"controller": {"enabled": False}})
    assert not allowed(without, _pods(without, "router")[0], _pods(without, "router")[0], INTERNAL)


@pytest.mark.parametrize("port", [GCS, NODE_MANAGER, 6381, 6382, 6383, 10002, 10999])
def test_ray_nodes_reach_each_other(manifests: list[Manifest], port: int) -> None:
    pods = pods_of(manifests)
    assert all(allowed(manifests, source, target, port) for source, target in product(pods, pods))


@pytest.mark.parametrize("port", [DASHBOARD, RAY_CLIENT, AGENT_HTTP, 22, 11000, 39999, 42000])
def test_no_pod_reaches_anything_else(manifests: list[Manifest], port: int) -> None:
    pods = pods_of(manifests)
    assert not any(allowed(manifests, source, target, port) for source, target in product(pods, pods))


@pytest.mark.parametrize(
    ("source", "target", "port"),
    [
        ("head", "worker", WORKER_FIRST),
        ("head", "router", PUBLIC),
        ("head", "router", INTERNAL),
        ("worker", "router", PUBLIC),
        ("worker", "router", METRICS),
        ("worker", "router", WORKER_FIRST),
        ("worker", "head", WORKER_FIRST),
        ("router", "head", WORKER_FIRST),
        ("router", "worker", PUBLIC),
    ],
)
def test_edges_that_the_design_does_not_have(manifests: list[Manifest], source: str, target: str, port: int) -> None:
    pairs = product(_pods(manifests, source), _pods(manifests, target))
    assert not any(allowed(manifests, a, b, port) for a, b in pairs)


def test_only_named_clients_reach_the_public_port() -> None:
    clients = [{"podSelector": {"matchLabels": {"role": "gateway"}}}]
    spec = only(render({"networkPolicy": {"clients": clients}}), "NetworkPolicy", "demo-tandem-router")["spec"]
    (public,) = [rule for rule in spec["ingress"] if rule["ports"][0]["port"] == PUBLIC]
    assert public["from"] == clients


def test_no_clients_means_nobody() -> None:
    spec = only(render({"networkPolicy": {"clients": []}}), "NetworkPolicy", "demo-tandem-router")["spec"]
    assert PUBLIC not in {rule["ports"][0]["port"] for rule in spec["ingress"]}


def test_redis_is_reached_by_router_and_workers_and_only_when_enabled() -> None:
    names = {m["metadata"]["name"] for m in render({}) if m["kind"] == "NetworkPolicy"}
    assert "demo-tandem-redis" not in names
    manifests = render(COMBINATIONS["redis"])
    spec = only(manifests, "NetworkPolicy", "demo-tandem-redis")["spec"]
    assert spec["egress"][0]["ports"] == [{"protocol": "TCP", "port": 6379}]
    reached_by = {pod.name for pod in pods_of(manifests) if selects(spec["podSelector"], pod.labels)}
    assert reached_by == {"router", "workers"}


def test_workers_take_their_ports_from_the_open_range(manifests: list[Manifest]) -> None:
    for pod in pods_of(manifests):
        sysctls = {entry["name"]: entry["value"] for entry in pod.spec["securityContext"]["sysctls"]}
        assert sysctls == {"net.ipv4.ip_local_port_range": f"{WORKER_FIRST} {WORKER_LAST}"}


def test_another_range_is_taken_over_everywhere() -> None:
    manifests = render({"ports": {"workers": {"first": 50000, "last": 50999}}})
    router, worker = _pods(manifests, "router")[0], _pods(manifests, "worker")[0]
    assert allowed(manifests, router, worker, 50999)
    assert not allowed(manifests, router, worker, WORKER_FIRST)
    assert worker.spec["securityContext"]["sysctls"][0]["value"] == "50000 50999"


def test_a_pod_of_another_release_is_a_stranger() -> None:
    ours, theirs = render({}), render({}, release="other")
    router = _pods(theirs, "router")[0]
    assert not any(allowed(ours + theirs, router, worker, WORKER_FIRST) for worker in _pods(ours, "worker"))
    assert allowed(ours + theirs, router, _pods(theirs, "worker")[0], WORKER_FIRST)
