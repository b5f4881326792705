"""Renders the chart, and the combinations of values that its tests go through."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import yaml

ROOT = Path(__file__).parents[3]
CHART = ROOT / "deploy" / "helm" / "tandem"
EXAMPLES = ROOT / "deploy" / "examples"
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
KEPT_HEAD: Values = {
    "faultTolerance": {
        "redisAddress": "redis://ray-state.data.svc:6379",
        "username": "ray",
        "passwordSecret": {"name": "ray-state", "key": "password"},
        "peers": [{"podSelector": {"matchLabels": {"app": "ray-state"}}}],
    }
}
SCALED: Values = {"autoscaler": {"enabled": True, "apiServer": {"peers": [{"ipBlock": {"cidr": "10.0.0.1/32"}}]}}}
MONITORED: Values = {
    "monitoring": {
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True},
    }
}
POLICY: Values = {
    "apiVersion": "tandem/v1",
    "kind": "AutoscalingPolicy",
    "metadata": {"name": "ours"},
    "spec": {"mode": "Off", "strategy": "Load", "pools": {"prefill": {"maxReplicas": 3}, "decode": {"maxReplicas": 3}}},
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
    "policy": {"policy": POLICY},
    "policy as text": {"policy": (EXAMPLES / "office-hours.policy.yaml").read_text("utf-8")},
    "no controller": {"controller": {"enabled": False}, "policy": POLICY},
    "one certificate": {"controller": {"tls": {"secretName": None}}},
    "head's state in a redis": {"ray": KEPT_HEAD},
    "scaled": {"ray": SCALED, "workers": {"replicas": 4, "minReplicas": 2, "maxReplicas": 8}},
    "scaled by a policy": {"ray": SCALED, "policy": (EXAMPLES / "office-hours.policy.yaml").read_text("utf-8")},
    "scaled and pinned": {**PINNED, "ray": SCALED, "workers": {"replicas": 1, "maxReplicas": 3}},
    "everything": {
        **REDIS,
        **PINNED,
        **MONITORED,
        "image": {"tag": "0.1.0-cuda"},
        "ray": {**KEPT_HEAD, **SCALED},
    },
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
