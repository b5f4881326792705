"""Rules for each pod: who it runs as, what it may take, what it may write, how its health is seen."""

import re
from collections.abc import Callable, Iterator

from tests.unit.deploy.chart import Manifest
from tests.unit.deploy.selectors import Finding, Pod, selects

LOWEST_UID = 10001
# Without one of these Ray would pick a port that no NetworkPolicy can name.
RAY_PORTS = (
    "node-manager-port",
    "object-manager-port",
    "runtime-env-agent-port",
    "dashboard-agent-grpc-port",
    "dashboard-agent-listen-port",
    "metrics-export-port",
    "min-worker-port",
    "max-worker-port",
)
DASHBOARD_PORT, RAY_CLIENT_PORT = 8265, 10001
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def quantity(value: str | float) -> float:
    """A Kubernetes quantity as a number (bytes or CPUs)."""
    parsed = re.fullmatch(r"([0-9.]+)(m|[kMGT]i?|)", str(value))
    if parsed is None:
        raise ValueError(f"not a quantity: {value}")
    number, unit = parsed.groups()
    return float(number) / 1000 if unit == "m" else float(number) * _UNITS[unit]


def pod_findings(pods: list[Pod]) -> Iterator[Finding]:
    """One finding per broken rule and place."""
    for pod in pods:
        for pod_rule in POD_RULES:
            for message in pod_rule(pod):
                yield Finding(rule=pod_rule.__name__.replace("_", "-"), where=f"pod {pod.name}", message=message)
        for container in pod.containers:
            for container_rule in CONTAINER_RULES:
                where = f"pod {pod.name}, container {container['name']}"
                for message in container_rule(container):
                    yield Finding(rule=container_rule.__name__.replace("_", "-"), where=where, message=message)
        for container in pod.injected:
            for container_rule in INJECTED_RULES:
                where = f"pod {pod.name}, container {container['name']}"
                for message in container_rule(container):
                    yield Finding(rule=container_rule.__name__.replace("_", "-"), where=where, message=message)


def run_as_root(pod: Pod) -> Iterator[str]:
    """Everything runs as a high, numeric, unprivileged user."""
    for owner, context in [("pod", pod.spec.get("securityContext", {})), *_contexts(pod)]:
        if context.get("runAsNonRoot") is not True:
            yield f"{owner}: runAsNonRoot is not true"
        if context.get("runAsUser", 0) < LOWEST_UID:
            yield f"{owner}: runAsUser {context.get('runAsUser')} is below {LOWEST_UID}"


def _contexts(pod: Pod) -> list[tuple[str, Manifest]]:
    return [(c["name"], c.get("securityContext", {})) for c in (*pod.containers, *pod.injected)]


def host_access(pod: Pod) -> Iterator[str]:
    """Nothing of the node is shared."""
    yield from (f"{key} is set" for key in ("hostNetwork", "hostPID", "hostIPC") if pod.spec.get(key))
    yield from (f"volume {v['name']} is a hostPath" for v in pod.spec.get("volumes", []) if "hostPath" in v)
    for container in pod.containers:
        yield from (f"hostPort {p['hostPort']}" for p in container.get("ports", []) if "hostPort" in p)


def service_account_token(pod: Pod) -> Iterator[str]:
    """No pod carries a credential for the Kubernetes API."""
    if pod.spec.get("automountServiceAccountToken") is not False:
        yield "automountServiceAccountToken is not false"


def volumes(pod: Pod) -> Iterator[str]:
    """What is mounted exists, what exists is mounted, and every emptyDir has a limit that fits the pod's."""
    declared = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
    mounted = {mount["name"] for mount in pod.mounts()}
    yield from (f"mount {name} has no volume" for name in sorted(mounted - declared.keys()))
    yield from (f"volume {name} is not mounted" for name in sorted(declared.keys() - mounted))
    sizes = {"Memory": 0.0, "": 0.0}
    for name, volume in declared.items():
        if "emptyDir" in volume:
            if "sizeLimit" not in volume["emptyDir"]:
                yield f"emptyDir {name} has no sizeLimit"
            else:
                sizes[volume["emptyDir"].get("medium", "")] += quantity(volume["emptyDir"]["sizeLimit"])
    for medium, resource in (("Memory", "memory"), ("", "ephemeral-storage")):
        limits = [quantity(c["resources"]["limits"][resource]) for c in pod.spec["containers"] if _limited(c, resource)]
        if limits and sizes[medium] >= sum(limits):
            yield f"emptyDirs may take {sizes[medium]:.0f} bytes of {sum(limits):.0f} of {resource}"


def shared_memory(pod: Pod) -> Iterator[str]:
    """/dev/shm is a memory volume of a size of our own: the runtime's default is 64 MiB."""
    in_memory = {v["name"] for v in pod.spec.get("volumes", []) if v.get("emptyDir", {}).get("medium") == "Memory"}
    for container in pod.spec["containers"]:
        if not any(m["mountPath"] == "/dev/shm" and m["name"] in in_memory for m in container.get("volumeMounts", [])):
            yield f"{container['name']} has no memory volume at /dev/shm"


def ray_dashboard(pod: Pod) -> Iterator[str]:
    """No dashboard, and loopback said aloud: the operator fills in 0.0.0.0 for a head that says nothing."""
    for container in pod.containers:
        for port in container.get("ports", []):
            if port["containerPort"] in (DASHBOARD_PORT, RAY_CLIENT_PORT):
                yield f"port {port['containerPort']} is declared"
    if pod.is_head:
        if pod.ray_start_params.get("include-dashboard") != "false":
            yield "include-dashboard is not false"
        if pod.ray_start_params.get("dashboard-host") not in LOOPBACK:
            yield f"dashboard-host is {pod.ray_start_params.get('dashboard-host')}"


def ray_ports(pod: Pod) -> Iterator[str]:
    """Every Ray port is a fixed one."""
    names = (*RAY_PORTS, "port") if pod.is_head else RAY_PORTS
    yield from (f"{name} is not fixed" for name in names if pod.ray_start_params.get(name, "0") == "0")
    if not all(isinstance(value, str) for value in pod.ray_start_params.values()):
        yield "rayStartParams holds a value that is not a string"


def idle_head(pod: Pod) -> Iterator[str]:
    """The head and the router offer Ray no CPU, so that no worker is placed there."""
    if (pod.is_head or pod.name == "router") and pod.ray_start_params.get("num-cpus") != "0":
        yield f"num-cpus is {pod.ray_start_params.get('num-cpus')}"


def spread(pod: Pod) -> Iterator[str]:
    """Pods of one group lie on different nodes where there are some."""
    constraints = pod.spec.get("topologySpreadConstraints", [])
    if not pod.is_head and not constraints:
        yield "no topologySpreadConstraints"
    yield from (
        "a spread constraint counts other pods" for c in constraints if not selects(c["labelSelector"], pod.labels)
    )


def container_security(container: Manifest) -> Iterator[str]:
    """The restricted profile of the Pod Security Standards, and a read-only root file system."""
    context = container.get("securityContext", {})
    if context.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    if context.get("readOnlyRootFilesystem") is not True:
        yield "readOnlyRootFilesystem is not true"
    if context.get("privileged"):
        yield "privileged"
    capabilities = context.get("capabilities", {})
    if capabilities.get("drop") != ["ALL"] or capabilities.get("add"):
        yield f"capabilities are {capabilities}"
    if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "seccompProfile is not RuntimeDefault"


def resource_limits(container: Manifest) -> Iterator[str]:
    """Limits on all three, and requests equal to them."""
    for resource in ("cpu", "memory", "ephemeral-storage"):
        if not _limited(container, resource):
            yield f"no limit on {resource}"
    resources = container.get("resources", {})
    if resources.get("requests") != resources.get("limits"):
        yield "requests differ from limits"


def _limited(container: Manifest, resource: str) -> bool:
    return resource in container.get("resources", {}).get("limits", {})


def ray_auth(container: Manifest) -> Iterator[str]:
    """Each process that speaks Ray does so with a token."""
    modes = [entry.get("value") for entry in container.get("env", []) if entry["name"] == "RAY_AUTH_MODE"]
    if modes != ["token"]:
        yield f"RAY_AUTH_MODE is {modes or 'not set'}"


def secret_in_environment(container: Manifest) -> Iterator[str]:
    """Secrets come as files: an environment is inherited, logged and dumped."""
    for entry in container.get("env", []):
        if "secretKeyRef" in entry.get("valueFrom", {}):
            yield f"{entry['name']} takes a Secret into the environment"
        if re.search(r"(TOKEN|PASSWORD|SECRET|API_KEY)$", entry["name"]) and entry.get("value"):
            yield f"{entry['name']} is a secret in plain text"
    if any("secretRef" in source for source in container.get("envFrom", [])):
        yield "envFrom takes a Secret into the environment"


def probes(container: Manifest) -> Iterator[str]:
    """All three probes, on ports that the container declares."""
    names = {port["name"] for port in container.get("ports", [])}
    numbers = {port["containerPort"] for port in container.get("ports", [])}
    for kind in PROBES:
        probe = container.get(kind)
        if probe is None:
            yield f"no {kind}"
            continue
        handlers = [handler for handler in ("grpc", "tcpSocket", "httpGet", "exec") if handler in probe]
        if len(handlers) != 1:
            yield f"{kind} has {len(handlers)} handlers"
        for handler in handlers:
            port = probe[handler].get("port") if handler != "exec" else None
            if port is not None and port not in (names if isinstance(port, str) else numbers):
                yield f"{kind} asks port {port}, which is not declared"


def image(container: Manifest) -> Iterator[str]:
    """A release, not whatever is newest."""
    name = container["image"].rsplit("/", 1)[-1]
    if "@sha256:" not in name and (":" not in name or name.endswith(":latest")):
        yield f"{container['image']} is not pinned"


POD_RULES: tuple[Callable[[Pod], Iterator[str]], ...] = (
    run_as_root,
    host_access,
    service_account_token,
    volumes,
    shared_memory,
    ray_dashboard,
    ray_ports,
    idle_head,
    spread,
)
CONTAINER_RULES: tuple[Callable[[Manifest], Iterator[str]], ...] = (
    container_security,
    resource_limits,
    ray_auth,
    secret_in_environment,
    probes,
    image,
)
# The operator gives an injected container its image, and no probes.
INJECTED_RULES = (container_security, resource_limits, ray_auth, secret_in_environment)
