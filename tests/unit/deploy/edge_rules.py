"""Rules between objects: selectors that select, network edges, disruption budgets, references that resolve."""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from tests.unit.deploy.chart import Manifest
from tests.unit.deploy.selectors import Finding, Pod, selects

OWN_LABEL = "tandem/cluster"


def edge_findings(manifests: list[Manifest], pods: list[Pod]) -> Iterator[Finding]:
    """One finding per broken rule and object."""
    rules = {
        "NetworkPolicy": _network_policy,
        "PodDisruptionBudget": _budget,
        "Service": _service,
        "PodMonitor": _pod_monitor,
        "ConfigMap": _config,
        "RayCluster": _ray_cluster,
        "ServiceAccount": _service_account,
    }
    for manifest in manifests:
        if manifest["kind"] in rules:
            where = f"{manifest['kind']}/{manifest['metadata']['name']}"
            for rule, message in rules[manifest["kind"]](manifest, pods):
                yield Finding(rule=rule, where=where, message=message)
    yield from _coverage(manifests, pods)
    yield from _references(manifests, pods)


Broken = Iterator[tuple[str, str]]


def _network_policy(manifest: Manifest, pods: list[Pod]) -> Broken:
    spec = manifest["spec"]
    if not any(selects(spec["podSelector"], pod.labels) for pod in pods):
        yield "network-selects-nothing", f"podSelector {spec['podSelector']} matches no pod"
    for direction, side in (("ingress", "from"), ("egress", "to")):
        if direction in spec and direction.capitalize() not in spec["policyTypes"]:
            yield "network-type", f"{direction} rules without the policy type"
        for rule in spec.get(direction, []):
            if not rule.get(side) or not rule.get("ports"):
                yield "network-open-rule", f"an {direction} rule without peers or without ports allows everything"
            for peer in rule.get(side, []):
                selector = peer.get("podSelector", {})
                own = OWN_LABEL in selector.get("matchLabels", {})
                if own and not any(selects(selector, pod.labels) for pod in pods):
                    yield "network-selects-nothing", f"peer {selector} matches no pod"


def _budget(manifest: Manifest, pods: list[Pod]) -> Broken:
    spec = manifest["spec"]
    covered = [pod for pod in pods if selects(spec["selector"], pod.labels)]
    if not covered:
        yield "budget-selects-nothing", f"{spec['selector']} matches no pod"
    # Other forms need a controller with a scale subresource, and a RayCluster has none.
    if "maxUnavailable" in spec or not isinstance(spec.get("minAvailable"), int):
        yield "budget-form", "only an integer minAvailable works for pods of a custom resource"
    elif covered and spec["minAvailable"] > sum(pod.min_replicas for pod in covered):
        yield "budget-form", f"minAvailable {spec['minAvailable']} is more than the pods there are"


def _service(manifest: Manifest, pods: list[Pod]) -> Broken:
    spec = manifest["spec"]
    targets = [pod for pod in pods if selects({"matchLabels": spec["selector"]}, pod.labels)]
    if not targets:
        yield "service-selects-nothing", f"{spec['selector']} matches no pod"
    for port in spec["ports"]:
        if any(port["targetPort"] not in pod.ports() for pod in targets):
            yield "service-port", f"targetPort {port['targetPort']} is not declared by every pod it selects"


def _pod_monitor(manifest: Manifest, pods: list[Pod]) -> Broken:
    spec = manifest["spec"]
    targets = [pod for pod in pods if selects(spec["selector"], pod.labels)]
    if not targets:
        yield "monitor-selects-nothing", f"{spec['selector']} matches no pod"
    for endpoint in spec["podMetricsEndpoints"]:
        if any(endpoint["port"] not in pod.ports() for pod in targets):
            yield "monitor-port", f"port {endpoint['port']} is not declared by every pod it selects"


def _config(manifest: Manifest, pods: list[Pod]) -> Broken:
    for name, text in manifest["data"].items():
        if name.endswith(".yaml"):
            try:
                document = yaml.safe_load(text)
            except yaml.YAMLError as error:
                yield "config-yaml", f"{name}: {error}"
                continue
            if not isinstance(document, Mapping) or not {"apiVersion", "kind"} <= document.keys():
                yield "config-yaml", f"{name} is not a document with apiVersion and kind"
            elif document["kind"] == "Cluster":
                yield from _cluster_ports(document, pods)


def _cluster_ports(document: Mapping[str, Any], pods: list[Pod]) -> Broken:
    router = document["router"]
    for pod in pods:
        if "grpc" in pod.ports():
            for key, name in (("port", "grpc"), ("internal_port", "grpc-internal"), ("metrics_port", "tandem-metrics")):
                if router[key] != pod.ports()[name]:
                    yield "config-port", f"router.{key} is {router[key]}, the pod declares {pod.ports()[name]}"
    mounts = {mount["mountPath"] for pod in pods if "grpc" in pod.ports() for mount in pod.mounts()}
    yield from _controller_files(document, mounts)
    protected = router.get("tls") and router.get("internal_tls") and "/etc/tandem/auth" in mounts
    if not (protected or router["insecure"]):
        yield "config-open", "TLS, mTLS or keys are missing, and `insecure` does not say so"


def _controller_files(document: Mapping[str, Any], mounts: set[str]) -> Broken:
    """What the controller reads is mounted where it may run: in the pod that offers its Ray resource."""
    controller = document.get("controller", {})
    if controller.get("enabled") and "ray_resource" not in controller:
        yield "controller-place", "without ray_resource the actor may run in a pod that has none of its files"
    for file in (controller.get("policy"), *controller.get("tls", {}).values()):
        if file is not None and file.rsplit("/", 1)[0] not in mounts:
            yield "controller-files", f"{file} is in no mounted folder of the router's pod"


def _ray_cluster(manifest: Manifest, pods: list[Pod]) -> Broken:
    if manifest["spec"].get("authOptions", {}).get("mode") != "token":
        yield "ray-auth", "authOptions.mode is not token"


def _service_account(manifest: Manifest, pods: list[Pod]) -> Broken:
    if manifest.get("automountServiceAccountToken") is not False:
        yield "service-account-token", "automountServiceAccountToken is not false"


def _coverage(manifests: list[Manifest], pods: list[Pod]) -> Iterator[Finding]:
    policies = [m["spec"] for m in manifests if m["kind"] == "NetworkPolicy"]
    denials = [s for s in policies if not s.get("ingress") and not s.get("egress") and len(s["policyTypes"]) == 2]
    budgets = [m["spec"]["selector"] for m in manifests if m["kind"] == "PodDisruptionBudget"]
    for pod in pods:
        where = f"pod {pod.name}"
        if not any(selects(spec["podSelector"], pod.labels) for spec in denials):
            yield Finding(rule="network-default-deny", where=where, message="no policy denies what is not allowed")
        count = sum(selects(selector, pod.labels) for selector in budgets)
        if count > 1:
            yield Finding(rule="budget-overlap", where=where, message=f"{count} budgets: evictions of it fail")
        if count == 0 and budgets and (pod.is_head or pod.name == "router" or pod.min_replicas > 1):
            yield Finding(rule="budget-missing", where=where, message="no disruption budget")


def _references(manifests: list[Manifest], pods: list[Pod]) -> Iterator[Finding]:
    present = {(m["kind"], m["metadata"]["name"]) for m in manifests}
    for pod in pods:
        wanted = [("ServiceAccount", pod.spec["serviceAccountName"])]
        wanted += [("ConfigMap", v["configMap"]["name"]) for v in pod.spec["volumes"] if "configMap" in v]
        for kind, name in wanted:
            if (kind, name) not in present:
                yield Finding(rule="reference", where=f"pod {pod.name}", message=f"{kind} {name} is not rendered")


def allowed(manifests: list[Manifest], source: Pod, target: Pod, port: int) -> bool:
    """Whether the NetworkPolicies let one pod of the render open a TCP connection to another."""
    policies = [m["spec"] for m in manifests if m["kind"] == "NetworkPolicy"]
    return _passes(policies, "Egress", source, target, port) and _passes(policies, "Ingress", target, source, port)


def _passes(policies: list[Manifest], direction: str, subject: Pod, other: Pod, port: int) -> bool:
    mine = [s for s in policies if direction in s["policyTypes"] and selects(s["podSelector"], subject.labels)]
    side = "from" if direction == "Ingress" else "to"
    rules = [rule for spec in mine for rule in spec.get(direction.lower(), [])]
    return not mine or any(_peer_in(rule[side], other) and _port_in(rule["ports"], port) for rule in rules)


def _peer_in(peers: list[Manifest], pod: Pod) -> bool:
    """A peer with a namespaceSelector or an ipBlock lies outside the release's namespace."""
    return any(p.keys() == {"podSelector"} and selects(p["podSelector"], pod.labels) for p in peers)


def _port_in(ports: list[Manifest], port: int) -> bool:
    spans = [(p["port"], p["endPort"] if "endPort" in p else p["port"]) for p in ports if p["protocol"] == "TCP"]
    return any(first <= port <= last for first, last in spans)
