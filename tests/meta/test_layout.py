"""The lists of component folders in pyproject.toml equal the folders on disk, and the namespace stays a namespace."""

import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CONFIG: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
TOOL: dict[str, Any] = CONFIG["tool"]
GENERATED = {"admin", "inference", "worker"}  # portions under rpc/, made from proto/
COMPONENTS = sorted(
    path.parents[2].name for path in ROOT.glob("*/tandem/*/__init__.py") if path.parent.name == path.parents[2].name
)


def test_some_components_are_found() -> None:
    assert {"router", "prefill_worker", "decode_worker", "kvtransfer", "kernels"} <= set(COMPONENTS)


def test_build_and_tools_know_every_component() -> None:
    wheel = TOOL["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == [f"{name}/tandem" for name in COMPONENTS]
    assert wheel["dev-mode-dirs"] == COMPONENTS
    assert TOOL["mypy"]["mypy_path"] == COMPONENTS
    assert TOOL["mypy"]["files"] == [*COMPONENTS, "benchmarks", "tests"]
    assert TOOL["pyright"]["extraPaths"] == COMPONENTS
    assert TOOL["ruff"]["src"] == COMPONENTS
    expected = {f"tandem.{name}" for name in COMPONENTS} | {f"tandem.{name}" for name in GENERATED}
    assert set(TOOL["importlinter"]["root_packages"]) == expected


def test_contracts_name_every_component() -> None:
    layers, _, torch_free, ray_free = TOOL["importlinter"]["contracts"]
    named = {name.strip() for line in layers["layers"] for name in line.split("|")}
    assert named == {f"tandem.{name}" for name in COMPONENTS}
    assert set(ray_free["source_modules"]) == named - {"tandem.cluster"}
    assert {"tandem.router", "tandem.client", "tandem.rpc", "tandem.core"} <= set(torch_free["source_modules"])


def test_namespace_has_no_init() -> None:
    """One __init__.py beside a portion would hide every other portion."""
    assert not list(ROOT.glob("*/tandem/__init__.py"))
    assert not [path for path in ROOT.glob("*/__init__.py") if path.parent.name in COMPONENTS]


def test_every_portion_is_typed() -> None:
    assert all((ROOT / name / "tandem" / name / "py.typed").is_file() for name in COMPONENTS)


def test_the_eight_packages_are_real_dependencies() -> None:
    required = {"torch", "ray", "grpcio", "protobuf", "transformers", "triton", "redis", "opentelemetry-sdk"}
    declared = {line.split(">")[0].split("=")[0].split(";")[0].strip() for line in CONFIG["project"]["dependencies"]}
    assert required <= declared
