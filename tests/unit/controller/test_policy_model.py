"""The policy: examples, schema, durations, schedules, bounds."""

import datetime as dt
import json
import re
from fractions import Fraction
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.controller.policy.base import PolicyModel, format_duration, parse_duration, ratio_of
from tandem.controller.policy.behavior import SelectPolicy
from tandem.controller.policy.bounds import Bounds, Split
from tandem.controller.policy.model import AutoscalingPolicy, Mode
from tandem.controller.policy.schema import SCHEMA_FILE, render_policy_schema
from tandem.core.config.yaml_file import load_yaml_config, parse_yaml_config, read_yaml_values
from tandem.core.types import PriorityClass

ROOT = Path(__file__).parents[3]
CONTROLLER = ROOT / "controller" / "tandem" / "controller"
EXAMPLES = sorted((ROOT / "deploy" / "examples").glob("*.policy.yaml"))
VALIDATOR = jsonschema.Draft202012Validator(json.loads(render_policy_schema()))
SECTIONS = {section.__name__: section for section in PolicyModel.__subclasses__()}
VIENNA = ZoneInfo("Europe/Vienna")


def example(name: str) -> AutoscalingPolicy:
    return load_yaml_config(ROOT / "deploy" / "examples" / f"{name}.policy.yaml", AutoscalingPolicy)


def outside_view(text: str) -> list[Any]:
    """What a validator that knows nothing of us has to say."""
    return list(VALIDATOR.iter_errors(read_yaml_values(text, name="policy.yaml")))


# --- examples and schema ------------------------------------------------------------------------------------------


def test_the_examples_are_there() -> None:
    assert {path.name.removesuffix(".policy.yaml") for path in EXAMPLES} == {
        "minimal", "two-classes", "pinned-budget", "office-hours",
    }  # fmt: skip


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_loads_fits_the_schema_and_tells_editors_where_it_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert load_yaml_config(path, AutoscalingPolicy).metadata.name == path.name.removesuffix(".policy.yaml")
    assert outside_view(text) == []
    header = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)
    assert header is not None
    assert (path.parent / header.group(1)).is_file()


def test_the_committed_schema_is_fresh_and_valid() -> None:
    committed = (ROOT / "deploy" / "schemas" / SCHEMA_FILE).read_text(encoding="utf-8")
    assert committed == render_policy_schema(), "run `make schemas`"
    jsonschema.Draft202012Validator.check_schema(json.loads(committed))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("maxReplicas: 4", "maxReplica: 4"),
        ("800ms", "800"),
        ("800ms", "0.8 seconds"),
        ("maxReplicas: 4", "maxReplicas: 0"),
        ("kind: AutoscalingPolicy", "kind: Cluster"),
        ("spec:", "spec:\n  ratio: {min: 0.5}"),
        ("spec:", "spec:\n  mode: Sometimes"),
        ("spec:", "spec:\n  schedules: [{name: a, start: 9am, end: '10:00'}]"),
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(old: str, new: str) -> None:
    text = (ROOT / "deploy" / "examples" / "minimal.policy.yaml").read_text(encoding="utf-8")
    assert old in text
    assert outside_view(text.replace(old, new, 1))


def test_defaults_in_the_schema_are_what_a_file_may_hold() -> None:
    """Every default of a section, put into a file, is accepted by the schema it came from."""
    schema = json.loads(render_policy_schema())
    defaults = {
        key: field["default"]
        for key, field in schema["$defs"]["PolicySpec"]["properties"].items()
        if field.get("default") is not None
    }
    assert {"damping", "sizing", "fallback", "predictor", "mode"} <= set(defaults)
    values = read_yaml_values((ROOT / "deploy/examples/minimal.policy.yaml").read_text(encoding="utf-8"), name="x")
    values["spec"] = {**defaults, **values["spec"]}
    assert list(VALIDATOR.iter_errors(values)) == []
    filled = AutoscalingPolicy.model_validate(values)
    assert filled == example("minimal")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_what_is_written_out_is_read_again(path: Path) -> None:
    policy = load_yaml_config(path, AutoscalingPolicy)
    text = json.dumps(policy.model_dump(mode="json", by_alias=True))
    assert parse_yaml_config(text, AutoscalingPolicy, name="again") == policy
    assert outside_view(text) == []


def test_modes_are_words_even_off() -> None:
    text = (ROOT / "deploy/examples/minimal.policy.yaml").read_text(encoding="utf-8")
    off = text.replace("spec:", "spec:\n  mode: Off")
    assert parse_yaml_config(off, AutoscalingPolicy, name="x").spec.mode is Mode.OFF
    assert outside_view(off) == []


def test_hpa_behavior_is_taken_verbatim() -> None:
    rules = example("two-classes").spec.pools.prefill.behavior
    assert rules.scale_up.select_policy is SelectPolicy.MAX
    assert [(p.type.value, p.value, p.period_seconds) for p in rules.scale_up.policies] == [
        ("Pods", 2, 60),
        ("Percent", 50, 60),
    ]
    assert rules.scale_down.stabilization_window_seconds == 300


def test_classes_come_most_urgent_first() -> None:
    assert list(example("two-classes").spec.classes.promises()) == [PriorityClass.INTERACTIVE, PriorityClass.BATCH]


# --- durations and ratios -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("30s", 30), ("5m", 300), ("1h", 3600), ("1.5s", 1.5), ("0s", 0)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("value", [5, 5.0, "5", "s", "-5s", "5 s", "1m30s", None, True, ["5s"]])
def test_what_is_no_duration(value: object) -> None:
    with pytest.raises(ValueError, match="write a number with its unit"):
        parse_duration(value)


@given(st.integers(0, 7 * 86_400_000))
def test_a_duration_is_written_as_it_is_read(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000, abs=1e-9)


def test_a_ratio_is_exact() -> None:
    assert ratio_of("2:6") == Fraction(1, 3)


# --- schedules ----------------------------------------------------------------------------------------------------


def _unix(*when: int) -> float:
    return dt.datetime(*when, tzinfo=VIENNA).timestamp()  # type: ignore[misc,arg-type]


@pytest.mark.parametrize(
    ("when", "active"),
    [
        ((2026, 11, 23, 7, 29), []),  # a Monday
        ((2026, 11, 23, 7, 30), ["office"]),
        ((2026, 11, 23, 18, 29), ["office"]),
        ((2026, 11, 23, 18, 30), []),
        ((2026, 11, 22, 12, 0), []),  # a Sunday
        ((2026, 11, 22, 23, 0), ["night"]),
        ((2026, 11, 23, 4, 59), ["night"]),
        ((2026, 11, 23, 5, 0), []),
        ((2026, 7, 6, 7, 30), ["office"]),  # summer time
    ],
)
def test_schedules_hold_in_their_own_time_zone(when: tuple[int, ...], active: list[str]) -> None:
    spec = example("office-hours").spec
    assert [schedule.name for schedule in spec.active_schedules(_unix(*when))] == active


def test_a_night_belongs_to_the_day_on_which_it_begins() -> None:
    spec = example("office-hours").spec
    night = spec.schedules[1].model_copy(update={"days": (spec.schedules[0].days[4],)})  # Friday
    assert night.is_active(_unix(2026, 11, 28, 3, 0))  # Saturday
    assert not night.is_active(_unix(2026, 11, 27, 3, 0))  # Friday, begun on Thursday


def test_a_schedule_changes_what_it_names_and_no_more() -> None:
    spec = example("office-hours").spec
    plain, office, night = (spec.bounds_at(_unix(2026, 11, 23, hour, 0)) for hour in (6, 12, 23))
    assert (plain.prefill_min, plain.prefill_max, plain.decode_min, plain.budget_max) == (1, 6, 1, 12)
    assert (office.prefill_min, office.prefill_max, office.decode_min, office.budget_max) == (2, 6, 4, 12)
    assert (night.prefill_min, night.prefill_max, night.decode_max, night.budget_max) == (1, 2, 4, 6)


# --- bounds -------------------------------------------------------------------------------------------------------

SMALL = st.integers(1, 6)
RATIOS = st.fractions(min_value=Fraction(1, 6), max_value=6, max_denominator=6)


@given(SMALL, SMALL, SMALL, SMALL, RATIOS, RATIOS, st.integers(0, 12), st.none() | st.integers(2, 14), SMALL, SMALL)
def test_the_listed_splits_are_exactly_those_that_nothing_forbids(  # noqa: PLR0917
    p1: int, p2: int, d1: int, d2: int, r1: Fraction, r2: Fraction, low: int, high: int | None, cp: int, cd: int
) -> None:
    bounds = Bounds(
        prefill_min=min(p1, p2), prefill_max=max(p1, p2), decode_min=min(d1, d2), decode_max=max(d1, d2),
        ratio_min=min(r1, r2), ratio_max=max(r1, r2), prefill_cost=cp, decode_cost=cd, budget_min=low, budget_max=high,
    )  # fmt: skip
    every = [Split(prefill=p, decode=d) for p in range(8) for d in range(1, 8)]
    assert set(bounds.splits()) == {split for split in every if not bounds.forbids(split)}
    assert bounds.is_empty() == (not set(bounds.splits()))


def sections(model: type[PolicyModel]) -> set[type[PolicyModel]]:
    """The model and every section below it."""
    found, fresh = {model}, [model]
    while fresh:
        for field in fresh.pop().model_fields.values():
            for inner in re.findall(r"[\w.]+", str(field.annotation)):
                section = SECTIONS.get(inner.rpartition(".")[2])
                if section is not None and section not in found:
                    found.add(section)
                    fresh.append(section)
    return found


def test_every_field_is_read_by_something() -> None:
    """A key that is accepted and does nothing is a promise that nobody keeps."""
    code = "".join(path.read_text(encoding="utf-8") for path in CONTROLLER.rglob("*.py"))
    all_sections = sections(AutoscalingPolicy)
    assert len(all_sections) >= 25
    unread = [
        f"{section.__name__}.{name}"
        for section in all_sections
        for name in section.model_fields
        if name not in {"api_version", "kind"} and re.search(rf"\.{name}\b(?!\s*import)", code) is None
    ]
    assert unread == []
