"""A policy in the making: what was carried over for each pool, and what was not, with the reason."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from tandem.controller.policy.base import format_duration
from tandem.controller.policy.model import AutoscalingPolicy
from tandem.core.config.yaml_file import parse_yaml_config
from tandem.core.errors import ConfigError
from tandem.core.types import Role

HEADER = "# yaml-language-server: $schema=policy.schema.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolDraft:
    """One pool, with keys as in a policy."""

    values: Mapping[str, Any]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyDraft:
    """Both pools, from one kind of file."""

    name: str
    source: str  # "autoscaling/v2" or "Ray Serve"
    pools: Mapping[Role, PoolDraft] = field(default_factory=dict)


def render(draft: PolicyDraft) -> str:
    """Return the draft as a policy file with its notes. Raises ConfigError when it would not be valid."""
    missing = [role.value for role in Role if role not in draft.pools]
    if missing:
        raise ConfigError(
            f"found no autoscaling of the {' and the '.join(missing)} pool",
            remedy=f"name it with --{missing[0]} NAME, or give its file as well",
        )
    document: dict[str, Any] = {
        "apiVersion": "tandem/v1",
        "kind": "AutoscalingPolicy",
        "metadata": {"name": draft.name},
        "spec": {
            "mode": "Advisory",
            "strategy": "Load",
            "pools": {role.value: dict(draft.pools[role].values) for role in Role},
        },
    }
    notes = [f"# {role.value}: {note}" for role in Role for note in draft.pools[role].notes]
    body = yaml.safe_dump(document, sort_keys=False, width=100)
    intro = [
        HEADER,
        f"# Converted from {draft.source}. Advisory: it decides and changes nothing until mode is Auto.",
        "# Strategy Load keeps what you had; add spec.classes and use strategy Slo to promise latencies instead.",
    ]
    text = "\n".join([*intro, *notes, body])
    parse_yaml_config(text, AutoscalingPolicy, name="converted policy")
    return text


def delay_rules(seconds: float) -> dict[str, Any]:
    """Return a direction's behavior that waits for ``seconds`` (at most HPA's hour)."""
    return {"stabilizationWindowSeconds": min(round(seconds), 3600)}


def shortened(what: str, seconds: float) -> tuple[str, ...]:
    """Return a note when a delay had to be cut to what a behavior may say."""
    return (f"{what} of {format_duration(round(seconds))} was cut to 1h",) if seconds > 3600 else ()
