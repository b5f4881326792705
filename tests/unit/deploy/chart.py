"""Renders the chart, and the combinations of values that its tests go through."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import yaml

ROOT = Path(__file__).parents[3]
CHART = ROOT / "deploy" / "helm" / "tandem"
NAMESPACE = "serving"

Manifest = dict[str, Any]
Values = Mapping[str, Any]

REDIS: Values = {
    "redis": {
        "enabled": True,
        "urlSecret": {"name": "redis-credentials", "key": "url"},
        "peers": [{"podSelector": {"matchLabels": {"app": "redis"}}}],
    }
}
OPEN: Values = {
    "router": {"auth": {"secretName": None}, "tls": {"secretName": None}, "insecure": True},
    "internalTls": {"secretName": None},
}
PINNED: Values = {
    "pools": {"prefill": {"replicas": 2}, "decode": {"replicas": 3}},
    "pinned": {
        "prefill": {"enabled": True, "gpusPerWorker": 1, "resources": {"cpu": 8, "memory": "64Gi"}},
        "decode": {"enabled": True},
    },
}
GPU: Values = {
    "image": {"tag": "0.1.0-cuda"},
    "workers": {"gpusPerWorker": 1, "runtimeClassName": "nvidia"},
}
MONITORED: Values = {
    "monitoring": {
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True},
    }
}
COMBINATIONS: Mapping[str, Values] = {
    "defaults": {},
    "redis": REDIS,
    "pinned": PINNED,
    "one pinned": {**PINNED, "pinned": {"prefill": {"enabled": True}}},
    "gpu": GPU,
    "monitored": MONITORED,
    "insecure": OPEN,
    "keys without tls": {"router": {"tls": {"secretName": None}, "insecure": True}},
    "aggregated": {"pools": {"prefill": {"replicas": 0}, "decode": {"replicas": 2}}},
    "ray tls, own token, digest": {
        "ray": {"tls": {"enabled": True}, "auth": {"secretName": "ray-token"}},
        "image": {"digest": "sha256:" + "0" * 64, "pullSecrets": ["registry"]},
    },
    "hub model": {
        "model": {
            "source": "Qwen/Qwen3-0.6B",
            "name": "qwen3",
            "hubTokenSecret": "hub",
            "cache": {"existingClaim": "models"},
        },
        "networkPolicy": {
            "extraEgress": [
                {"to": [{"ipBlock": {"cidr": "203.0.113.0/24"}}], "ports": [{"protocol": "TCP", "port": 443}]}
            ]
        },
    },
    "room to scale": {"workers": {"replicas": 4, "minReplicas": 2, "maxReplicas": 8}},
    "scheduling": {
        "workers": {
            "scheduling": {
                "nodeSelector": {"pool": "inference"},
                "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
                "priorityClassName": "serving",
            }
        }
    },
    "policy": {"policy": {"apiVersion": "tandem/v1", "kind": "AutoscalingPolicy", "mode": "Off"}},
    "everything": {**REDIS, **PINNED, **MONITORED, "image": {"tag": "0.1.0-cuda"}},
}


@cache
def _chart() -> helm_python.Chart:
    return helm_python.Chart.load(CHART)


def render(values: Values, *, release: str = "demo") -> list[Manifest]:
    """Render the chart as an installation into NAMESPACE would; raises `helm_python.HelmError`."""
    rendered = _chart().render(dict(values), name=release, namespace=NAMESPACE)
    manifests: list[Manifest] = []
    for path, text in sorted(rendered.items()):
        if path.endswith((".yaml", ".yml")):
            manifests += [document for document in yaml.safe_load_all(text) if document]
    return manifests


def notes(values: Values, *, release: str = "demo") -> str:
    """What Helm prints after an installation."""
    rendered = _chart().render(dict(values), name=release, namespace=NAMESPACE)
    return next(text for path, text in rendered.items() if path.endswith("NOTES.txt"))


def only(manifests: list[Manifest], kind: str, name: str | None = None) -> Manifest:
    """The one manifest of a kind (and name)."""
    found = [m for m in manifests if m["kind"] == kind and (name is None or m["metadata"]["name"] == name)]
    if len(found) != 1:
        raise LookupError(f"{len(found)} manifests of kind {kind} named {name}")
    return found[0]
