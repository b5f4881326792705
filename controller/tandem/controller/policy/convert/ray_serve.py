"""Reads `autoscaling_config` of a Ray Serve file: of deployments, or of `prefill_config` and `decode_config`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pydantic

from tandem.controller.policy.convert.draft import PolicyDraft, PoolDraft, delay_rules, shortened
from tandem.controller.policy.convert.hpa import SourceText
from tandem.core.config.yaml_file import read_yaml_values
from tandem.core.errors import ConfigError
from tandem.core.types import Role

_NO_COUNTERPART = {
    "initial_replicas": "workers begin with cluster.yaml's pools",
    "smoothing_factor": "use behavior.*.policies",
    "upscale_smoothing_factor": "use behavior.scaleUp.policies",
    "downscale_smoothing_factor": "use behavior.scaleDown.policies",
    "upscaling_factor": "use behavior.scaleUp.policies",
    "downscaling_factor": "use behavior.scaleDown.policies",
    "downscale_to_zero_delay_s": "each role always has a worker",
    "look_back_period_s": "see spec.predictor.window",
    "metrics_interval_s": "see spec.interval",
    "aggregation_function": "the controller sums over workers",
    "policy": "custom policies are code",
}


class _Autoscaling(pydantic.BaseModel):
    """The fields of Ray Serve's AutoscalingConfig that mean something here, with Ray's defaults."""

    model_config = pydantic.ConfigDict(frozen=True, extra="ignore")
    min_replicas: int = pydantic.Field(default=1, ge=0)
    max_replicas: int = pydantic.Field(default=1, ge=1)
    target_ongoing_requests: float = pydantic.Field(default=2, gt=0)
    upscale_delay_s: float = pydantic.Field(default=30, ge=0)
    downscale_delay_s: float = pydantic.Field(default=600, ge=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    where: str
    names: frozenset[str]
    config: Mapping[str, Any]


def draft_from_ray_serve(source: SourceText, names: Mapping[Role, str]) -> PolicyDraft:
    """Return a draft; ``names`` says which deployment is whose where their names do not."""
    pools: dict[Role, PoolDraft] = {}
    for found in _search(read_yaml_values(source.text, name=source.name), "", frozenset()):
        role = _role_of(found, names)
        if role is None:
            continue
        if role in pools:
            raise ConfigError(
                f"{source.name}: two autoscaling_config for the {role.value} pool", remedy=f"name one: --{role.value}"
            )
        pools[role] = _pool(found, source.name)
    return PolicyDraft(name="converted", source="Ray Serve", pools=pools)


def _search(value: Any, where: str, names: frozenset[str]) -> Iterator[_Found]:
    if isinstance(value, dict):
        own = {str(value[key]) for key in ("name", "deployment_name") if isinstance(value.get(key), str)}
        config = value.get("autoscaling_config")
        here = names | own
        if isinstance(config, dict):
            yield _Found(where=f"{where}.autoscaling_config".lstrip("."), names=here, config=config)
        for key, item in value.items():
            if key != "autoscaling_config":
                yield from _search(item, f"{where}.{key}".lstrip("."), here | {str(key)})
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _search(item, f"{where}[{index}]", names)


def _role_of(found: _Found, names: Mapping[Role, str]) -> Role | None:
    for role, name in names.items():
        if name in found.names:
            return role
    matches = [role for role in Role if any(role.value in name.lower() for name in found.names)]
    return matches[0] if len(matches) == 1 else None


def _pool(found: _Found, file: str) -> PoolDraft:
    try:
        config = _Autoscaling.model_validate(found.config)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(step) for step in first["loc"])
        problem = str(first["msg"])
        raise ConfigError(
            f"{file}: {found.where}.{field}: {problem[:1].lower()}{problem[1:]} (got {first['input']!r})",
            remedy="mend it there first; Ray Serve would refuse it, too",
        ) from error
    notes = [f"{key} was left out: {why}" for key, why in _NO_COUNTERPART.items() if key in found.config]
    if config.min_replicas < 1:
        notes.append("min_replicas 0 became 1: each role always has a worker")
    notes += shortened("upscale_delay_s", config.upscale_delay_s)
    notes += shortened("downscale_delay_s", config.downscale_delay_s)
    return PoolDraft(
        values={
            "minReplicas": max(config.min_replicas, 1),
            "maxReplicas": config.max_replicas,
            "load": {"targetRunning": config.target_ongoing_requests},
            "behavior": {
                "scaleUp": delay_rules(config.upscale_delay_s),
                "scaleDown": delay_rules(config.downscale_delay_s),
            },
        },
        notes=tuple(notes),
    )
