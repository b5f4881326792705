"""The environment: what is read, what a child gets, and what it must not get."""

import os
from pathlib import Path

import pytest

from tandem.core.environment import child_environment, read_environment, worker_variables


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An environment in which nothing that Tandem reads is set."""
    for name in ("XDG_CACHE_HOME", "XDG_RUNTIME_DIR", "NO_COLOR", "HF_HUB_OFFLINE", "TMPDIR", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch


def test_with_nothing_set_everything_lies_with_the_user(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment = read_environment()
    assert environment.cache_folder == tmp_path / ".cache" / "tandem"
    assert environment.run_folder == Path("/tmp") / f"tandem-{os.getuid()}"
    assert not environment.no_color
    assert not environment.hub_offline


def test_an_empty_folder_variable_is_one_that_is_not_set(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As the XDG specification says; else the cache would land in the current folder."""
    bare.setenv("XDG_CACHE_HOME", "")
    bare.setenv("XDG_RUNTIME_DIR", "")
    environment = read_environment()
    assert environment.cache_folder == tmp_path / ".cache" / "tandem"
    assert environment.run_folder.is_absolute()


@pytest.mark.parametrize(("value", "expected"), [("", False), ("0", False), ("1", True), ("true", True)])
def test_offline(bare: pytest.MonkeyPatch, value: str, expected: bool) -> None:
    bare.setenv("HF_HUB_OFFLINE", value)
    assert read_environment().hub_offline is expected


@pytest.mark.parametrize(("value", "expected"), [("", False), ("0", True), ("1", True)])
def test_no_color_is_on_with_any_value(bare: pytest.MonkeyPatch, value: str, expected: bool) -> None:
    """As no-color.org has it: present and not empty, regardless of its value."""
    bare.setenv("NO_COLOR", value)
    assert read_environment().no_color is expected


def test_a_child_gets_its_threads_and_everything_else_unchanged(bare: pytest.MonkeyPatch) -> None:
    bare.setenv("SOMETHING_OF_THE_USERS", "kept")
    bare.setenv("OMP_NUM_THREADS", "64")
    before = dict(os.environ)
    child = child_environment(num_threads=3)
    assert child["OMP_NUM_THREADS"] == child["MKL_NUM_THREADS"] == "3"
    assert child["SOMETHING_OF_THE_USERS"] == "kept"
    assert child["HF_HUB_OFFLINE"] == "1"
    assert child["TOKENIZERS_PARALLELISM"] == "false"
    assert child["RAY_USAGE_STATS_ENABLED"] == "0"
    assert dict(os.environ) == before


def test_only_the_process_that_fetches_models_may_go_online(bare: pytest.MonkeyPatch) -> None:
    assert "HF_HUB_OFFLINE" not in child_environment(num_threads=1, offline=False)
    bare.setenv("HF_HUB_OFFLINE", "1")
    assert child_environment(num_threads=1)["HF_HUB_OFFLINE"] == "1"


def test_what_goes_to_another_machine_names_nothing_of_this_one(bare: pytest.MonkeyPatch) -> None:
    bare.setenv("HOME_SECRET", "x")
    variables = worker_variables(num_threads=2)
    assert set(variables) == {"OMP_NUM_THREADS", "MKL_NUM_THREADS", "TOKENIZERS_PARALLELISM", "HF_HUB_OFFLINE"}
    assert set(variables) < set(child_environment(num_threads=2))
