"""What `.dockerignore` lets into the build context: what the wheel is made of, and nothing else."""

import fnmatch
import tomllib

import pytest

from tests.unit.deploy.chart import ROOT


def _in_context(name: str) -> bool:
    """Docker's rule: the last pattern that matches a path or a parent of it decides."""
    kept = True
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.strip()
        if pattern and not pattern.startswith("#"):
            negated, parts = pattern.startswith("!"), pattern.removeprefix("!").split("/")
            if _matches(name.split("/"), parts):
                kept = negated
    return kept


def _matches(name: list[str], pattern: list[str]) -> bool:
    if not pattern:
        return True
    if pattern[0] == "**":
        return any(_matches(name[i:], pattern[1:]) for i in range(len(name)))
    return bool(name) and fnmatch.fnmatch(name[0], pattern[0]) and _matches(name[1:], pattern[1:])


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("pyproject.toml", True),
        ("README.md", True),
        ("LICENSE", True),
        ("core/tandem/core/types.py", True),
        ("cluster/tandem/cluster/__init__.py", True),
        ("core/tandem/core/__pycache__/types.cpython-311.pyc", False),
        (".git/config", False),
        (".venv/bin/python", False),
        (".env", False),
        ("certs/ca.key", False),
        ("tests/conftest.py", False),
        ("deploy/helm/tandem/values.yaml", False),
        ("core/secret.txt", False),
    ],
)
def test_context_holds_what_the_wheel_needs(name: str, wanted: bool) -> None:
    assert _in_context(name) is wanted


def test_context_holds_every_component() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert packages
    assert all(_in_context(f"{package}/{package.split('/')[0]}/__init__.py") for package in packages)


def test_context_holds_every_file_the_build_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert all(_in_context(name) for name in (project["readme"], *project["license-files"]))
