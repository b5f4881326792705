"""Pods of a render as the rules see them, and Kubernetes label selection."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.unit.deploy.chart import Manifest

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One broken rule."""

    rule: str
    where: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod template with what surrounds it in the RayCluster."""

    name: str
    labels: Labels
    spec: Manifest
    ray_start_params: Mapping[str, str]
    is_head: bool
    min_replicas: int
    injected: tuple[Manifest, ...] = ()  # containers that the operator adds, as far as the chart says how

    @property
    def containers(self) -> list[Manifest]:
        """All containers, those that initialise included."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    def mounts(self) -> list[Manifest]:
        """Volume mounts of all containers."""
        return [
            mount for container in (*self.containers, *self.injected) for mount in container.get("volumeMounts", [])
        ]

    def ports(self) -> dict[str, int]:
        """Container ports by name."""
        return {port["name"]: port["containerPort"] for c in self.spec["containers"] for port in c.get("ports", [])}


def pods_of(manifests: list[Manifest]) -> list[Pod]:
    """Every pod template of every RayCluster."""
    return [pod for manifest in manifests if manifest["kind"] == "RayCluster" for pod in _groups(manifest["spec"])]


def _groups(spec: Manifest) -> Iterator[Pod]:
    head = spec["headGroupSpec"]
    autoscaler = {"name": "autoscaler", **spec.get("autoscalerOptions", {})}
    injected = (autoscaler,) if spec.get("enableInTreeAutoscaling") else ()
    for name, group, is_head in [("head", head, True), *((g["groupName"], g, False) for g in spec["workerGroupSpecs"])]:
        yield Pod(
            name=name,
            labels=group["template"]["metadata"]["labels"],
            spec=group["template"]["spec"],
            ray_start_params=group["rayStartParams"],
            is_head=is_head,
            min_replicas=1 if is_head else group["minReplicas"],
            injected=injected if is_head else (),
        )


def selects(selector: Mapping[str, Any], labels: Labels) -> bool:
    """Whether a LabelSelector matches; an empty one matches everything."""
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    return all(_holds(expression, labels) for expression in selector.get("matchExpressions", []))


def _holds(expression: Mapping[str, Any], labels: Labels) -> bool:
    key, values = expression["key"], expression.get("values", [])
    match expression["operator"]:
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
        case other:
            raise ValueError(f"unknown operator {other} in a label selector")
