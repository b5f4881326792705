"""Reads HorizontalPodAutoscalers (autoscaling/v2): one per pool, in one file or several."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pydantic
from pydantic.alias_generators import to_camel

from tandem.controller.policy.behavior import HpaBehavior
from tandem.controller.policy.convert.draft import PolicyDraft, PoolDraft
from tandem.core.config.yaml_file import parse_yaml_config, read_yaml_values
from tandem.core.errors import ConfigError
from tandem.core.types import Role

_LIKE_RUNNING = re.compile(r"running|ongoing|concurren|in_?flight", re.IGNORECASE)


class _Foreign(pydantic.BaseModel):
    """A part of a file that others own: what is not read here is let pass."""

    model_config = pydantic.ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel)


class _Metadata(_Foreign):
    name: str = ""


class _Target(_Foreign):
    name: str = ""


class _HpaSpec(_Foreign):
    scale_target_ref: _Target = _Target()
    min_replicas: int = 1
    max_replicas: int
    metrics: list[dict[str, Any]] = pydantic.Field(default_factory=list)
    behavior: HpaBehavior | None = None


class _Hpa(_Foreign):
    api_version: Literal["autoscaling/v2"]
    kind: Literal["HorizontalPodAutoscaler"]
    metadata: _Metadata = _Metadata()
    spec: _HpaSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceText:
    """One file that is converted."""

    name: str
    text: str


def is_hpa(source: SourceText) -> bool:
    """Whether a file holds HorizontalPodAutoscalers."""
    return re.search(r"^\s*kind:\s*[\"']?HorizontalPodAutoscaler\b", source.text, re.MULTILINE) is not None


def draft_from_hpas(sources: Sequence[SourceText], names: Mapping[Role, str]) -> PolicyDraft:
    """Return a draft; ``names`` says which autoscaler is whose where their names do not."""
    pools: dict[Role, PoolDraft] = {}
    for source in sources:
        for document in _documents(source):
            values = read_yaml_values(document.text, name=document.name)
            if not isinstance(values, dict) or values.get("kind") != "HorizontalPodAutoscaler":
                continue
            hpa = parse_yaml_config(document.text, _Hpa, name=document.name)
            role = _role_of(hpa, names, source.name)
            if role in pools:
                raise ConfigError(
                    f"{source.name}: two autoscalers for the {role.value} pool", remedy=f"name one with --{role.value}"
                )
            pools[role] = _pool(hpa, values)
    return PolicyDraft(name="converted", source="HorizontalPodAutoscaler (autoscaling/v2)", pools=pools)


def _documents(source: SourceText) -> Iterator[SourceText]:
    """Yield each YAML document, moved down so that its line numbers are those of the file."""
    lines: list[str] = []
    begun = 0
    for number, line in enumerate([*source.text.splitlines(), "---"]):
        if re.match(r"^---(\s|$)", line):
            if any(text.strip() and not text.lstrip().startswith("#") for text in lines):
                yield SourceText(name=source.name, text="\n" * begun + "\n".join(lines) + "\n")
            lines, begun = [], number + 1
        else:
            lines.append(line)


def _role_of(hpa: _Hpa, names: Mapping[Role, str], file: str) -> Role:
    known = {hpa.metadata.name, hpa.spec.scale_target_ref.name}
    for role, name in names.items():
        if name in known:
            return role
    matches = [role for role in Role if any(role.value in name.lower() for name in known)]
    if len(matches) != 1:
        raise ConfigError(
            f"{file}: can't tell whose autoscaler {hpa.metadata.name!r} is",
            remedy=f"say it: --prefill {hpa.metadata.name} or --decode {hpa.metadata.name}",
        )
    return matches[0]


def _pool(hpa: _Hpa, original: Mapping[str, Any]) -> PoolDraft:
    values: dict[str, Any] = {"minReplicas": max(hpa.spec.min_replicas, 1), "maxReplicas": hpa.spec.max_replicas}
    notes: list[str] = []
    if hpa.spec.min_replicas < 1:
        notes.append("minReplicas 0 became 1: each role always has a worker")
    if hpa.spec.behavior is not None:
        values["behavior"] = original["spec"]["behavior"]  # verbatim: validated above
    for metric in hpa.spec.metrics:
        _carry(metric, values, notes)
    return PoolDraft(values=values, notes=tuple(notes))


def _carry(metric: Mapping[str, Any], values: dict[str, Any], notes: list[str]) -> None:
    kind = str(metric.get("type", "?"))
    body = metric.get(kind[:1].lower() + kind[1:], {})
    body = body if isinstance(body, dict) else {}
    inner = body.get("metric")
    name = str(inner.get("name", "?") if isinstance(inner, dict) else body.get("name", "?"))
    target = body.get("target")
    amount = target.get("averageValue") if isinstance(target, dict) else None
    number = _number(amount)
    if number is not None and _LIKE_RUNNING.search(name) and "load" not in values:
        values["load"] = {"targetRunning": number}
    else:
        notes.append(f"metric {kind} {name} was left out: nothing here means the same; see spec.pools.*.load")


def _number(amount: object) -> float | None:
    match = re.match(r"^(\d+(?:\.\d+)?)(m?)$", str(amount))
    if match is None:
        return None
    number = float(match.group(1)) / (1000 if match.group(2) else 1)
    return number if number > 0 else None
