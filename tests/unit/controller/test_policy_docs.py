"""docs/policy.md names every field with its default and its meaning, as the schema has them."""

import json
from pathlib import Path
from typing import Any

import pytest

from tandem.controller.policy.schema import render_policy_schema

DOCUMENT = (Path(__file__).parents[3] / "docs" / "policy.md").read_text(encoding="utf-8")
SECTIONS = {
    "spec": "PolicySpec",
    "spec.classes": "ClassesSection",
    "spec.classes.*": "SloClass",
    "spec.classes.*.ttft, itl, tpot, e2e": "Objective",
    "spec.pools": "PoolsSection",
    "spec.pools.*": "PoolPolicy",
    "spec.pools.*.behavior": "HpaBehavior",
    "spec.pools.*.behavior.scaleUp, scaleDown": "ScalingRules",
    "spec.pools.*.behavior.*.policies": "ScalingPolicy",
    "spec.pools.*.drain": "DrainSection",
    "spec.pools.*.load": "LoadTargets",
    "spec.ratio": "RatioSection",
    "spec.roleSwitch": "RoleSwitchSection",
    "spec.borrow": "BorrowSection",
    "spec.budget": "BudgetSection",
    "spec.damping": "DampingSection",
    "spec.sizing": "SizingSection",
    "spec.predictor": "PredictorSection",
    "spec.predictor.holtWinters": "HoltWintersSection",
    "spec.predictor.kalman": "KalmanSection",
    "spec.schedules": "Schedule",
    "spec.schedules[].pools": "PoolOverrides",
    "spec.schedules[].pools.*": "PoolOverride",
    "spec.fallback": "FallbackSection",
    "spec.fallback.replicas": "FallbackCounts",
}


def _default(field: dict[str, Any], *, is_required: bool) -> str:
    value = field.get("default")
    if is_required:
        return "required"
    if value is None or isinstance(value, dict) or value == []:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value).removesuffix(".0")


def rows(section: str) -> list[str]:
    """Return the table rows of one section; a field that says what its section says is described there."""
    definitions = json.loads(render_policy_schema())["$defs"]
    definition = definitions[section]
    found = []
    for key, field in definition["properties"].items():
        described = field if "description" in field else definitions[field["$ref"].rpartition("/")[2]]
        default = _default(field, is_required=key in definition.get("required", []))
        found.append(f"| `{key}` | {default} | {' '.join(described['description'].split())} |")
    return found


def reference() -> str:
    """Return the whole reference; paste it into the document when fields have changed."""
    parts = []
    for path, section in SECTIONS.items():
        parts += [f"### {path}", "| key | default | meaning |", "|---|---|---|", *rows(section), ""]
    return "\n".join(parts)


def test_every_section_of_the_schema_is_in_the_reference() -> None:
    known = set(SECTIONS.values()) | {"PolicyMetadata"}
    objects = {name for name, each in json.loads(render_policy_schema())["$defs"].items() if "properties" in each}
    assert objects == known


@pytest.mark.parametrize("path", SECTIONS, ids=str)
def test_a_section_is_documented_as_it_is(path: str) -> None:
    assert f"### {path}\n" in DOCUMENT
    assert [row for row in rows(SECTIONS[path]) if row not in DOCUMENT] == []
