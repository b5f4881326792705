"""Broken policies: each complaint has the exact place, the field and the mend."""

from pathlib import Path

import pytest

from tandem.controller.policy.model import AutoscalingPolicy
from tandem.core.config.yaml_file import parse_yaml_config
from tandem.core.errors import ConfigError

FOLDER = Path(__file__).parent / "broken_policies"
FILES = sorted(FOLDER.glob("*.yaml"))


def complaint(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_yaml_config(text, AutoscalingPolicy, name="policy.yaml")
    return str(caught.value)


def test_there_are_ten_and_more() -> None:
    assert len(FILES) >= 10


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_broken_file_is_told_exactly(file: Path) -> None:
    """Its first lines hold what must be said, one problem a line, after `#! `."""
    text = file.read_text(encoding="utf-8")
    expected = [line.removeprefix("#! ") for line in text.splitlines() if line.startswith("#! ")]
    assert expected
    assert complaint(text).splitlines() == [f"policy.yaml:{line}" for line in expected]
    for line in expected:
        assert len(line.split(":", 3)) == 4, "line, column, field, what is wrong and what to do"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("fallback: {action: Replicas}", "spec.fallback.action: needs fallback.replicas; add it, or use Hold"),
        ("fallback: {staleAfter: 6s}", "spec.fallback.staleAfter: must be at least twice the interval"),
        ("fallback: {replicas: {prefill: 9, decode: 1}}", "fallback.replicas: can't be had: 9 prefill workers are out"),
        ("ratio: {min: '2:1', max: '1:2'}", "spec.ratio.min: must not be above ratio.max (1:2)"),
        ("ratio: {min: '1:2', target: '1:4'}", "spec.ratio.target: must lie within ratio.min..ratio.max (1:2 to 64:1)"),
        ("ratio: {min: '9:1'}", "spec.ratio: no number of workers within minReplicas..maxReplicas"),
        ("budget: {max: 1}", "spec.budget.max: is below what minReplicas of both pools need (2)"),
        ("budget: {min: 30, max: 40}", "spec.budget.min: is above what maxReplicas of both pools can use (8)"),
        ("budget: {min: 5, max: 4}", "spec.budget.min: must not be above budget.max (4); lower it (got 5"),
        ("predictor: {kind: HoltWinters, holtWinters: {seasonLength: 9s}}", "seasonLength: must be at least four int"),
        ("classes: {standard: {}}", "spec.classes.standard: promises nothing"),
        ("classes: {standard: {ttft: {target: 2s}, e2e: {target: 1s}}}", "e2e.target: must be above ttft.target"),
        ("schedules: [{name: a, start: '09:00', end: '09:00'}]", "schedules[0].end: must differ from start"),
        ("schedules: [{name: a, start: 9am, end: '09:00'}]", 'start: is not a time of day; write it like "08:30"'),
        (
            "schedules: [{name: a, start: '09:00', end: '10:00', timeZone: Mars}]",
            "is not a time zone of this machine; write it like Europe/Vienna, or UTC (got 'Mars')",
        ),
        (
            "schedules: [{name: a, start: '09:00', end: '10:00', pools: {decode: {}}}]",
            "schedules[0].pools.decode: changes nothing; name minReplicas",
        ),
        (
            "schedules: [{name: a, start: '09:00', end: '10:00', pools: {decode: {minReplicas: 5}}}]",
            "schedules[0].pools.decode: leaves no room: minReplicas is 5 and maxReplicas 4 while a is active",
        ),
        (
            "schedules: [{name: a, start: '09:00', end: '10:00', budget: {max: 1}}]",
            "schedules[0]: no number of workers fits pools, ratio and budget while a is active; widen one of them",
        ),
    ],
)
def test_sections_that_contradict_each_other(spec: str, expected: str) -> None:
    classes = "" if "classes" in spec else "  classes: {standard: {ttft: {target: 1s}}}\n"
    text = (
        "metadata: {name: x}\nspec:\n  pools:\n    prefill: {maxReplicas: 4}\n    decode: {maxReplicas: 4}\n"
        f"{classes}  {spec}\n"
    )
    assert expected in complaint(text)


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        ("replicas: 9", "spec.pools.prefill.replicas: must lie within minReplicas..maxReplicas (1..4) (got 9)"),
        ("load: {up: 0.5, down: 0.5}", "spec.pools.prefill.load.down: must be below up (0.5)"),
        ("behavior: {scaleDown: {tolerance: lots}}", "is not a quantity; write it like 0.05 or 50m (got 'lots')"),
        ("behavior: {scaleDown: {policies: [{type: Pod, value: 1, periodSeconds: 5}]}}", "did you mean 'Pods'?"),
        ("behavior: {scaleDown: {stabilizationWindowSeconds: 9999}}", "less than or equal to 3600 (got 9999)"),
    ],
)
def test_mistakes_within_a_pool(pool: str, expected: str) -> None:
    text = (
        "metadata: {name: x}\nspec:\n  strategy: Load\n  pools:\n"
        f"    prefill: {{maxReplicas: 4, {pool}}}\n    decode: {{maxReplicas: 4}}\n"
    )
    assert expected in complaint(text)


def test_strategies_name_what_they_lack() -> None:
    head = "metadata: {name: x}\nspec:\n  pools: {prefill: {maxReplicas: 4}, decode: {maxReplicas: 4}}\n"
    assert "spec.strategy: strategy Slo needs a promise" in complaint(head)
    assert "policy.yaml:4:3: spec.strategy: strategy Ratio needs spec.ratio.target; add it" in complaint(
        head + "  strategy: Ratio\n"
    )
    assert "spec.pools.prefill: strategy Fixed needs replicas here" in complaint(head + "  strategy: Fixed\n")
    fixed = head.replace("maxReplicas: 4", "maxReplicas: 4, replicas: 4")
    assert "replicas can't be kept: 8 accelerators are above budget.max 6" in complaint(
        fixed + "  strategy: Fixed\n  budget: {max: 6}\n"
    )
