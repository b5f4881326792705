"""Policies out of HorizontalPodAutoscalers and Ray Serve files; what differs between two policies."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tandem.cluster.cli.app import main
from tandem.controller.policy.convert.draft import render
from tandem.controller.policy.convert.hpa import SourceText, draft_from_hpas, is_hpa
from tandem.controller.policy.convert.ray_serve import draft_from_ray_serve
from tandem.controller.policy.diff import differences
from tandem.controller.policy.model import AutoscalingPolicy, Strategy
from tandem.controller.policy.schema import render_policy_schema
from tandem.core.config.yaml_file import parse_yaml_config
from tandem.core.errors import ConfigError
from tandem.core.types import Role

HPAS = """\
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: chat-prefill}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: chat-p}
  minReplicas: 2
  maxReplicas: 6
  metrics:
    - type: Pods
      pods: {metric: {name: vllm_num_requests_running}, target: {type: AverageValue, averageValue: 12500m}}
    - type: Resource
      resource: {name: cpu, target: {type: Utilization, averageUtilization: 70}}
  behavior:
    scaleDown:
      stabilizationWindowSeconds: 120
      policies: [{type: Percent, value: 25, periodSeconds: 60}]
---
apiVersion: v1
kind: Service
metadata: {name: beside}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: chat-d}
spec:
  scaleTargetRef: {kind: Deployment, name: chat-decode}
  minReplicas: 0
  maxReplicas: 8
"""
SERVE = """\
applications:
  - name: pd
    import_path: app:app
    args:
      prefill_config:
        deployment_config:
          autoscaling_config: {min_replicas: 2, max_replicas: 4, target_ongoing_requests: 8, upscale_delay_s: 10}
      decode_config:
        deployment_config:
          autoscaling_config: {min_replicas: 0, max_replicas: 6, downscale_delay_s: 7200, smoothing_factor: 0.5}
"""


def policy_of(text: str) -> AutoscalingPolicy:
    jsonschema.validate(yaml.safe_load(text), json.loads(render_policy_schema()))
    return parse_yaml_config(text, AutoscalingPolicy, name="converted")


def hpa_policy(text: str, names: dict[Role, str] | None = None) -> str:
    return render(draft_from_hpas([SourceText(name="hpa.yaml", text=text)], names or {}))


def serve_policy(text: str, names: dict[Role, str] | None = None) -> str:
    return render(draft_from_ray_serve(SourceText(name="serve.yaml", text=text), names or {}))


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    return int(ended.value.code or 0)


# --- HPA ----------------------------------------------------------------------------------------------------------


def test_two_autoscalers_become_a_policy() -> None:
    text = hpa_policy(HPAS)
    spec = policy_of(text).spec
    assert spec.strategy is Strategy.LOAD
    assert (spec.pools.prefill.min_replicas, spec.pools.prefill.max_replicas) == (2, 6)
    assert (spec.pools.decode.min_replicas, spec.pools.decode.max_replicas) == (1, 8)
    assert spec.pools.prefill.load.target_running == pytest.approx(12.5)
    assert spec.pools.prefill.behavior.scale_down.stabilization_window_seconds == 120
    assert spec.pools.prefill.behavior.scale_down.policies[0].value == 25
    assert "# prefill: metric Resource cpu was left out" in text
    assert "# decode: minReplicas 0 became 1" in text


def test_behavior_comes_over_word_for_word() -> None:
    before = next(yaml.safe_load_all(HPAS))["spec"]["behavior"]
    assert yaml.safe_load(hpa_policy(HPAS))["spec"]["pools"]["prefill"]["behavior"] == before


def test_an_autoscaler_of_neither_name_must_be_named() -> None:
    text = HPAS.replace("chat-prefill", "one").replace("chat-p}", "two}")
    with pytest.raises(ConfigError, match="can't tell whose autoscaler 'one' is\n  → say it: --prefill one"):
        hpa_policy(text)
    assert policy_of(hpa_policy(text, {Role.PREFILL: "two"})).spec.pools.prefill.max_replicas == 6


def test_mistakes_in_an_autoscaler_are_named_with_their_line_in_the_file() -> None:
    line = HPAS.splitlines().index("  maxReplicas: 8") + 1
    with pytest.raises(ConfigError, match=rf"hpa.yaml:{line}:3: spec.maxReplicas: .* \(got 'many'\)"):
        hpa_policy(HPAS.replace("maxReplicas: 8", "maxReplicas: many"))
    with pytest.raises(ConfigError, match=r"hpa.yaml:1:1: apiVersion: input should be 'autoscaling/v2'"):
        hpa_policy(HPAS.replace("autoscaling/v2", "autoscaling/v1", 1))


def test_one_autoscaler_is_not_enough_and_three_are_too_many() -> None:
    alone = HPAS.split("---", maxsplit=1)[0]
    with pytest.raises(ConfigError, match="found no autoscaling of the decode pool"):
        hpa_policy(alone)
    with pytest.raises(ConfigError, match="two autoscalers for the prefill pool"):
        hpa_policy(f"{alone}---\n{HPAS}")


# --- Ray Serve ----------------------------------------------------------------------------------------------------


def test_a_ray_serve_file_becomes_a_policy() -> None:
    text = serve_policy(SERVE)
    pools = policy_of(text).spec.pools
    assert (pools.prefill.min_replicas, pools.prefill.max_replicas) == (2, 4)
    assert pools.prefill.load.target_running == pytest.approx(8)
    assert pools.prefill.behavior.scale_up.stabilization_window_seconds == 10
    assert pools.prefill.behavior.scale_down.stabilization_window_seconds == 600  # Ray's default
    assert pools.decode.behavior.scale_down.stabilization_window_seconds == 3600
    assert "# decode: downscale_delay_s of 2h was cut to 1h" in text
    assert "# decode: smoothing_factor was left out" in text
    assert "# decode: min_replicas 0 became 1" in text


def test_deployments_are_told_apart_by_name() -> None:
    values: dict[str, Any] = {
        "applications": [
            {
                "name": "app",
                "deployments": [
                    {"name": "PrefillServer", "autoscaling_config": {"max_replicas": 3}},
                    {"name": "Writer", "autoscaling_config": {"max_replicas": 5}},
                    {"name": "Ingress", "autoscaling_config": {"max_replicas": 9}},
                ],
            }
        ]
    }
    text = yaml.safe_dump(values)
    with pytest.raises(ConfigError, match="--decode NAME"):
        serve_policy(text)
    pools = policy_of(serve_policy(text, {Role.DECODE: "Writer"})).spec.pools
    assert (pools.prefill.max_replicas, pools.decode.max_replicas) == (3, 5)


def test_a_mistake_in_a_ray_serve_file_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        serve_policy(SERVE.replace("max_replicas: 4", "max_replicas: none"))
    assert "serve.yaml: applications[0].args.prefill_config.deployment_config.autoscaling_config.max_replicas: " in str(
        caught.value
    )


# --- differences, and the commands --------------------------------------------------------------------------------

EXAMPLES = Path(__file__).parents[3] / "deploy" / "examples"
MINIMAL = (EXAMPLES / "minimal.policy.yaml").read_text(encoding="utf-8")


def test_only_effective_differences_count() -> None:
    old = parse_yaml_config(MINIMAL, AutoscalingPolicy, name="old")
    spelt_out = MINIMAL.replace("800ms", "0.8s") + "  mode: Auto\n"
    assert differences(old, parse_yaml_config(spelt_out, AutoscalingPolicy, name="new")) == ()
    changed = MINIMAL.replace("maxReplicas: 4", "maxReplicas: 6", 1) + "  budget: {max: 5}\n"
    found = differences(old, parse_yaml_config(changed, AutoscalingPolicy, name="new"))
    assert [(change.path, change.before, change.after) for change in found] == [
        ("spec.pools.prefill.maxReplicas", 4, 6),
        ("spec.budget.min", None, 0.0),
        ("spec.budget.max", None, 5.0),
    ]


def test_a_schedule_that_moved_in_the_file_is_no_difference_but_a_renamed_one_is() -> None:
    text = (EXAMPLES / "office-hours.policy.yaml").read_text(encoding="utf-8")
    old = parse_yaml_config(text, AutoscalingPolicy, name="old")
    swapped = old.model_copy(update={"spec": old.spec.model_copy(update={"schedules": old.spec.schedules[::-1]})})
    assert differences(old, swapped) == ()
    renamed = parse_yaml_config(text.replace("name: night", "name: late"), AutoscalingPolicy, name="new")
    assert {change.path.split("[")[1].split("]")[0] for change in differences(old, renamed)} == {"night", "late"}


def test_validate_says_ok_or_every_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(path) for path in sorted(EXAMPLES.glob("*.policy.yaml"))]
    assert run("policy", "validate", *files) == 0
    assert capsys.readouterr().out.count(": ok (") == len(files)
    bad = tmp_path / "bad.yaml"
    bad.write_text(MINIMAL.replace("maxReplicas: 4", "maxReplica: 4"), encoding="utf-8")
    assert run("policy", "validate", *files, str(bad), str(tmp_path / "none.yaml")) == 1
    err = capsys.readouterr().err
    assert f"{bad}:12:15: spec.pools.prefill.maxReplica: unknown key; did you mean 'maxReplicas'?" in err
    assert "none.yaml: can't be read" in err


def test_diff_prints_paths_and_has_an_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text(MINIMAL, encoding="utf-8")
    new.write_text(MINIMAL.replace("60ms", "90ms"), encoding="utf-8")
    assert run("policy", "diff", str(old), str(new)) == 0
    assert capsys.readouterr().out == "spec.classes.interactive.itl.target: 60ms → 90ms\n"
    assert run("policy", "diff", str(old), str(new), "--exit-code", "--json") == 1
    changes = json.loads(capsys.readouterr().out)["changes"]
    assert changes == [{"path": "spec.classes.interactive.itl.target", "before": "60ms", "after": "90ms"}]
    assert run("policy", "diff", str(old), str(old), "--exit-code") == 0
    assert capsys.readouterr().err == "no difference\n"


def test_convert_writes_a_file_that_validates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hpas, serve, out = tmp_path / "hpa.yaml", tmp_path / "serve.yaml", tmp_path / "policy.yaml"
    hpas.write_text(HPAS, encoding="utf-8")
    serve.write_text(SERVE, encoding="utf-8")
    assert is_hpa(SourceText(name="", text=HPAS))
    assert run("policy", "convert", str(hpas), "-o", str(out)) == 0
    assert run("policy", "validate", str(out)) == 0
    named = out.read_text(encoding="utf-8").splitlines()[0].rpartition("$schema=")[2]
    jsonschema.Draft202012Validator(json.loads((tmp_path / named).read_text())).validate(
        yaml.safe_load(out.read_text())
    )
    assert run("policy", "convert", str(hpas), "-o", str(out)) == 1
    assert "exists already" in capsys.readouterr().err
    assert run("policy", "convert", str(hpas), "-o", str(tmp_path / "nowhere" / "policy.yaml")) == 1
    assert "choose another --output" in capsys.readouterr().err
    assert run("policy", "convert", str(serve)) == 0
    assert policy_of(capsys.readouterr().out).spec.pools.prefill.max_replicas == 4
    assert run("policy", "convert", str(serve), str(serve)) == 1
    assert "no HorizontalPodAutoscaler in these files" in capsys.readouterr().err
