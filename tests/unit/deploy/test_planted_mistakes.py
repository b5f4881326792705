"""The linter finds what it is there for: each mistake planted in a clean render is caught, under its own rule."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.deploy.chart import COMBINATIONS, Manifest, only, render
from tests.unit.deploy.manifest_lint import lint
from tests.unit.deploy.pod_rules import CONTAINER_RULES, POD_RULES

Plant = Callable[[list[Manifest]], None]
PLANTED: dict[str, tuple[str, Plant]] = {}


def plant(rule: str) -> Callable[[Plant], Plant]:
    """Register a mistake with the rule that must catch it."""

    def register(function: Plant) -> Plant:
        PLANTED[function.__name__.replace("_", " ")] = (rule, function)
        return function

    return register


def group(manifests: list[Manifest], name: str) -> Manifest:
    spec = only(manifests, "RayCluster")["spec"]
    found: Manifest = {"head": spec["headGroupSpec"]}.get(name) or next(
        g for g in spec["workerGroupSpecs"] if g["groupName"] == name
    )
    return found


def pod(manifests: list[Manifest], name: str) -> Manifest:
    spec: Manifest = group(manifests, name)["template"]["spec"]
    return spec


def container(manifests: list[Manifest], name: str) -> Manifest:
    first: Manifest = pod(manifests, name)["containers"][0]
    return first


def policy(manifests: list[Manifest], name: str) -> Manifest:
    spec: Manifest = only(manifests, "NetworkPolicy", f"demo-tandem-{name}")["spec"]
    return spec


def budget(manifests: list[Manifest], name: str) -> Manifest:
    spec: Manifest = only(manifests, "PodDisruptionBudget", f"demo-tandem-{name}")["spec"]
    return spec


@plant("run-as-root")
def root_user_in_a_container(m: list[Manifest]) -> None:
    container(m, "workers")["securityContext"]["runAsUser"] = 0


@plant("run-as-root")
def root_allowed_for_the_pod(m: list[Manifest]) -> None:
    del pod(m, "head")["securityContext"]["runAsNonRoot"]


@plant("container-security")
def writable_root_file_system(m: list[Manifest]) -> None:
    container(m, "router")["securityContext"]["readOnlyRootFilesystem"] = False


@plant("container-security")
def privilege_escalation(m: list[Manifest]) -> None:
    del container(m, "router")["securityContext"]["allowPrivilegeEscalation"]


@plant("container-security")
def capability_added(m: list[Manifest]) -> None:
    container(m, "workers")["securityContext"]["capabilities"]["add"] = ["IPC_LOCK"]


@plant("container-security")
def unconfined_system_calls(m: list[Manifest]) -> None:
    container(m, "head")["securityContext"]["seccompProfile"] = {"type": "Unconfined"}


@plant("host-access")
def host_network(m: list[Manifest]) -> None:
    pod(m, "workers")["hostNetwork"] = True


@plant("host-access")
def host_path(m: list[Manifest]) -> None:
    next(v for v in pod(m, "workers")["volumes"] if v["name"] == "cache").update(emptyDir=None, hostPath={"path": "/"})
    del next(v for v in pod(m, "workers")["volumes"] if v["name"] == "cache")["emptyDir"]


@plant("service-account-token")
def token_for_the_api_in_a_worker(m: list[Manifest]) -> None:
    pod(m, "workers")["automountServiceAccountToken"] = True


@plant("resource-limits")
def missing_limits(m: list[Manifest]) -> None:
    del container(m, "workers")["resources"]["limits"]


@plant("resource-limits")
def missing_memory_limit(m: list[Manifest]) -> None:
    del container(m, "head")["resources"]["limits"]["memory"]


@plant("volumes")
def volume_without_limit(m: list[Manifest]) -> None:
    next(v for v in pod(m, "router")["volumes"] if v["name"] == "tmp")["emptyDir"] = {}


@plant("volumes")
def cache_larger_than_the_pod_may_store(m: list[Manifest]) -> None:
    next(v for v in pod(m, "router")["volumes"] if v["name"] == "cache")["emptyDir"]["sizeLimit"] = "1Ti"


@plant("volumes")
def mount_of_nothing(m: list[Manifest]) -> None:
    pod(m, "router")["volumes"] = [v for v in pod(m, "router")["volumes"] if v["name"] != "config"]


@plant("shared-memory")
def default_shared_memory(m: list[Manifest]) -> None:
    del next(v for v in pod(m, "workers")["volumes"] if v["name"] == "shm")["emptyDir"]["medium"]


@plant("ray-auth")
def missing_auth_mode_in_the_environment(m: list[Manifest]) -> None:
    env = container(m, "workers")["env"]
    env[:] = [entry for entry in env if entry["name"] != "RAY_AUTH_MODE"]


@plant("ray-auth")
def auth_mode_disabled(m: list[Manifest]) -> None:
    next(e for e in container(m, "head")["env"] if e["name"] == "RAY_AUTH_MODE")["value"] = "disabled"


@plant("ray-auth")
def missing_auth_options(m: list[Manifest]) -> None:
    del only(m, "RayCluster")["spec"]["authOptions"]


@plant("schema")
def typing_error_in_a_ray_cluster(m: list[Manifest]) -> None:
    group(m, "workers")["maxReplica"] = group(m, "workers")["maxReplicas"]


@plant("schema")
def typing_error_deep_in_a_pod_template(m: list[Manifest]) -> None:
    container(m, "workers")["readinesProbe"] = container(m, "workers")["readinessProbe"]


@plant("schema")
def unknown_auth_mode(m: list[Manifest]) -> None:
    only(m, "RayCluster")["spec"]["authOptions"]["mode"] = "tokens"


@plant("schema")
def typing_error_in_a_builtin_kind(m: list[Manifest]) -> None:
    only(m, "Service", "demo-tandem")["spec"]["selectors"] = {}


@plant("schema")
def number_for_a_string_in_a_config_map(m: list[Manifest]) -> None:
    only(m, "ConfigMap", "demo-tandem-config")["data"]["port"] = 8700


@plant("schema")
def typing_error_in_a_pod_monitor(m: list[Manifest]) -> None:
    only(m, "PodMonitor", "demo-tandem")["spec"]["podMetricsEndpoint"] = []


@plant("schema")
def kind_of_a_removed_api(m: list[Manifest]) -> None:
    only(m, "PodDisruptionBudget", "demo-tandem-head")["apiVersion"] = "policy/v1beta1"


@plant("ray-dashboard")
def dashboard_on_all_interfaces(m: list[Manifest]) -> None:
    group(m, "head")["rayStartParams"]["dashboard-host"] = "0.0.0.0"


@plant("ray-dashboard")
def dashboard_host_left_to_the_operator(m: list[Manifest]) -> None:
    del group(m, "head")["rayStartParams"]["dashboard-host"]


@plant("ray-dashboard")
def ray_client_port_declared(m: list[Manifest]) -> None:
    container(m, "head")["ports"].append({"name": "client", "containerPort": 10001})


@plant("ray-ports")
def random_ray_port(m: list[Manifest]) -> None:
    del group(m, "workers")["rayStartParams"]["object-manager-port"]


@plant("idle-head")
def work_on_the_head(m: list[Manifest]) -> None:
    group(m, "head")["rayStartParams"]["num-cpus"] = "1"


@plant("spread")
def spread_over_other_pods(m: list[Manifest]) -> None:
    pod(m, "workers")["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"]["tandem/group"] = "worker"


@plant("probes")
def probe_on_a_wrong_port_name(m: list[Manifest]) -> None:
    container(m, "workers")["livenessProbe"]["tcpSocket"]["port"] = "raynode"


@plant("probes")
def probe_on_a_wrong_port_number(m: list[Manifest]) -> None:
    container(m, "router")["readinessProbe"] = {"grpc": {"port": 8702}}


@plant("probes")
def missing_readiness(m: list[Manifest]) -> None:
    del container(m, "router")["readinessProbe"]


@plant("secret-in-environment")
def secret_from_the_environment(m: list[Manifest]) -> None:
    source = {"secretKeyRef": {"name": "redis", "key": "url"}}
    container(m, "router")["env"].append({"name": "REDIS_URL", "valueFrom": source})


@plant("secret-in-environment")
def secret_in_plain_text(m: list[Manifest]) -> None:
    container(m, "router")["env"].append({"name": "HF_TOKEN", "value": "hf_x"})


@plant("image")
def newest_image(m: list[Manifest]) -> None:
    container(m, "router")["image"] = "tandem:latest"


@plant("network-selects-nothing")
def network_policy_that_selects_nothing(m: list[Manifest]) -> None:
    policy(m, "workers")["podSelector"]["matchLabels"]["tandem/component"] = "workers"


@plant("network-selects-nothing")
def network_peer_that_is_nobody(m: list[Manifest]) -> None:
    policy(m, "workers")["ingress"][0]["from"][0]["podSelector"]["matchLabels"]["tandem/component"] = "routers"


@plant("network-default-deny")
def no_default_denial(m: list[Manifest]) -> None:
    m.remove(only(m, "NetworkPolicy", "demo-tandem-default-deny"))


@plant("network-default-deny")
def default_denial_of_one_direction(m: list[Manifest]) -> None:
    policy(m, "default-deny")["policyTypes"] = ["Ingress"]


@plant("network-open-rule")
def rule_for_everybody(m: list[Manifest]) -> None:
    policy(m, "router")["ingress"].append({"ports": [{"protocol": "TCP", "port": 8701}]})


@plant("network-type")
def egress_rules_that_have_no_effect(m: list[Manifest]) -> None:
    policy(m, "ray")["policyTypes"] = ["Ingress"]


@plant("budget-selects-nothing")
def budget_for_nobody(m: list[Manifest]) -> None:
    budget(m, "workers")["selector"]["matchLabels"]["tandem/group"] = "decoders"


@plant("budget-form")
def budget_form_that_is_ignored(m: list[Manifest]) -> None:
    budget(m, "workers").pop("minAvailable")
    budget(m, "workers")["maxUnavailable"] = 1


@plant("budget-form")
def budget_over_the_number_of_pods(m: list[Manifest]) -> None:
    budget(m, "workers")["minAvailable"] = 3


@plant("budget-overlap")
def two_budgets_for_one_pod(m: list[Manifest]) -> None:
    del budget(m, "head")["selector"]["matchLabels"]["tandem/component"]


@plant("budget-missing")
def no_budget_for_the_workers(m: list[Manifest]) -> None:
    m.remove(only(m, "PodDisruptionBudget", "demo-tandem-workers"))


@plant("service-selects-nothing")
def service_for_nobody(m: list[Manifest]) -> None:
    only(m, "Service", "demo-tandem")["spec"]["selector"]["tandem/component"] = "gateway"


@plant("service-port")
def service_to_a_port_that_is_not_there(m: list[Manifest]) -> None:
    only(m, "Service", "demo-tandem")["spec"]["ports"][0]["targetPort"] = "http"


@plant("monitor-port")
def scrape_of_a_port_that_is_not_there(m: list[Manifest]) -> None:
    only(m, "PodMonitor", "demo-tandem")["spec"]["podMetricsEndpoints"][0]["port"] = "metrics-port"


@plant("monitor-selects-nothing")
def scrape_of_nobody(m: list[Manifest]) -> None:
    only(m, "PodMonitor", "demo-tandem")["spec"]["selector"]["matchLabels"]["tandem/component"] = "gateway"


@plant("config-yaml")
def configuration_that_is_no_yaml(m: list[Manifest]) -> None:
    only(m, "ConfigMap", "demo-tandem-config")["data"]["cluster.yaml"] += "\n  : ["


@plant("config-yaml")
def configuration_without_a_kind(m: list[Manifest]) -> None:
    only(m, "ConfigMap", "demo-tandem-config")["data"]["cluster.yaml"] = "router: {}\n"


@plant("config-port")
def port_of_another_configuration(m: list[Manifest]) -> None:
    data = only(m, "ConfigMap", "demo-tandem-config")["data"]
    data["cluster.yaml"] = data["cluster.yaml"].replace("port: 8700", "port: 8710")


@plant("config-open")
def router_without_tls(m: list[Manifest]) -> None:
    data = only(m, "ConfigMap", "demo-tandem-config")["data"]
    data["cluster.yaml"] = data["cluster.yaml"].replace("  tls:", "  limits:")


@plant("config-open")
def router_without_keys(m: list[Manifest]) -> None:
    container(m, "router")["volumeMounts"] = [
        mount for mount in container(m, "router")["volumeMounts"] if mount["name"] != "api-keys"
    ]


@plant("reference")
def config_map_of_the_policy_of_another_name(m: list[Manifest]) -> None:
    only(m, "ConfigMap", "demo-tandem-policy")["metadata"]["name"] = "policy"


@plant("reference")
def config_map_of_another_name(m: list[Manifest]) -> None:
    only(m, "ConfigMap", "demo-tandem-config")["metadata"]["name"] = "config"


@pytest.fixture(scope="module")
def clean() -> list[Manifest]:
    manifests = render(COMBINATIONS["monitored"])
    assert lint(manifests) == []
    return manifests


@pytest.mark.parametrize("name", PLANTED)
def test_planted_mistake_is_found(name: str, clean: list[Any]) -> None:
    rule, function = PLANTED[name]
    manifests = copy.deepcopy(clean)
    function(manifests)
    assert rule in {finding.rule for finding in lint(manifests)}


@pytest.mark.parametrize("name", ["root user in a container", "probe on a wrong port name", "random ray port"])
def test_finding_says_where_and_nothing_else_is_blamed(name: str, clean: list[Any]) -> None:
    rule, function = PLANTED[name]
    manifests = copy.deepcopy(clean)
    function(manifests)
    (finding,) = lint(manifests)
    assert finding.rule == rule
    assert "workers" in finding.where


def test_every_rule_has_a_planted_mistake() -> None:
    planted = {rule for rule, _ in PLANTED.values()}
    assert {rule.__name__.replace("_", "-") for rule in (*POD_RULES, *CONTAINER_RULES)} <= planted
