"""The images: pinned bases, nothing of the build in them, an unprivileged user, no secrets in layers."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from tests.unit.deploy.chart import ROOT
from tests.unit.deploy.dockerfile import Stage, instructions, read_stages

FILES = [ROOT / "deploy" / "docker" / name for name in ("Dockerfile.cpu", "Dockerfile.cuda")]
pytestmark = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)


def _final(path: Path) -> Stage:
    return read_stages(path)[-1]


def test_stages_are_a_builder_and_a_runtime(path: Path) -> None:
    assert [stage.name for stage in read_stages(path)] == ["builder", "runtime"]


def test_every_base_is_pinned_and_can_be_pinned_by_digest(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for stage in read_stages(path):
        assert re.fullmatch(r"[a-z0-9./-]+:\d+\.\d+\.\d+-[a-z-]+", stage.base), stage.base
    assert text.count("FROM ${BASE_IMAGE}${BASE_DIGEST} AS") == 2


def test_user_is_numeric_and_unprivileged(path: Path) -> None:
    user, group = _final(path).last("USER").split(":")
    assert int(user) >= 10001
    assert int(group) >= 10001
    after = [i.name for i in _final(path).instructions]
    assert "RUN" not in after[after.index("USER") :]


def test_entry_point_is_the_command(path: Path) -> None:
    assert json.loads(_final(path).last("ENTRYPOINT")) == ["tandem"]
    assert isinstance(json.loads(_final(path).last("CMD")), list)


def test_health_is_left_to_the_orchestrator_and_says_why(path: Path) -> None:
    assert _final(path).last("HEALTHCHECK") == "NONE"
    before = path.read_text(encoding="utf-8").split("HEALTHCHECK NONE")[0].splitlines()
    assert before[-1].startswith("# ")


def test_nothing_is_fetched_past_the_package_managers(path: Path) -> None:
    for stage in read_stages(path):
        assert stage.values("ADD") == []
        assert not [run for run in stage.values("RUN") if re.search(r"\b(curl|wget|git clone)\b", run)]


def test_no_secret_is_an_argument_or_in_the_environment(path: Path) -> None:
    names = [i.value.split("=")[0] for s in read_stages(path) for i in s.instructions if i.name in ("ARG", "ENV")]
    assert not [name for name in names if re.search(r"TOKEN|SECRET|PASSWORD|KEY", name)]


def test_runtime_takes_only_the_environment_from_the_builder(path: Path) -> None:
    assert _final(path).values("COPY") == ["--from=builder /opt/tandem /opt/tandem"]


def test_wheel_is_built_and_installed_with_pinned_torch_and_ray(path: Path) -> None:
    builder = read_stages(path)[0]
    runs = "\n".join(builder.values("RUN"))
    assert "pip wheel --no-deps --wheel-dir /dist ." in runs
    assert '"torch==${TORCH_VERSION}"' in runs
    assert '"ray==${RAY_VERSION}"' in runs
    assert ("whl/cpu" in runs) == (path.suffix == ".cpu")
    extras = set(re.search(r"\[([a-z,]+)\]", runs)[1].split(","))  # type: ignore[index]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert extras <= project["optional-dependencies"].keys()


def test_pinned_versions_meet_the_requirements(path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    arguments = dict(value.split("=") for value in read_stages(path)[0].values("ARG"))
    for name in ("torch", "ray"):
        (least,) = [re.search(r">=([\d.]+)", d)[1] for d in project["dependencies"] if re.match(rf"{name}\b", d)]  # type: ignore[index]
        pinned = arguments[f"{name.upper()}_VERSION"]
        assert [int(part) for part in pinned.split(".")] >= [int(part) for part in least.split(".")]


def test_python_of_the_image_is_supported(path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    least = project["requires-python"].removeprefix(">=")
    assert _final(path).base.startswith(f"python:{least}.")


def test_what_is_written_goes_where_the_pod_mounts_volumes(path: Path) -> None:
    environment = dict(pair.split("=", 1) for pair in " ".join(_final(path).values("ENV")).split())
    written = {name: value for name, value in environment.items() if name in ("HOME", "XDG_CACHE_HOME", "HF_HOME")}
    assert len(written) == 3
    assert all(value.startswith(("/home/tandem", "/var/cache/tandem")) for value in written.values())


def test_reader_joins_lines_and_refuses_what_is_no_instruction(path: Path) -> None:
    assert instructions("RUN a \\\n    && b\n# no\nUSER 1")[0].value == "a && b"
    with pytest.raises(ValueError, match="not an instruction"):
        instructions(path.name)
