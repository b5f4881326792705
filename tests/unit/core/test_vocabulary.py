"""Ids, errors, environment, config base, logging: the small promises of core."""

import inspect
import io
import json
from pathlib import Path

import pydantic
import pytest
import structlog

from tandem.core import errors
from tandem.core.clock import MonotonicClock
from tandem.core.config.model import ConfigModel
from tandem.core.environment import read_environment
from tandem.core.ids import new_epoch, new_request_id
from tandem.core.log import configure_logging


def test_request_ids_are_128_random_bits() -> None:
    ids = {new_request_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(len(i) == 32 and int(i, 16) >= 0 for i in ids)


def test_epochs_fit_a_signed_field() -> None:
    epochs = {new_epoch() for _ in range(1000)}
    assert len(epochs) == 1000
    assert all(0 <= e < 2**63 for e in epochs)


def test_monotonic_clock_moves_forward() -> None:
    clock = MonotonicClock()
    first = clock.now_s()
    assert clock.now_s() >= first


def _error_classes() -> list[type[errors.TandemError]]:
    members = vars(errors).values()
    return [m for m in members if inspect.isclass(m) and issubclass(m, errors.TandemError)]


def test_the_error_tree_in_the_docstring_is_the_real_one() -> None:
    drawn = errors.__doc__ or ""
    for kind in _error_classes():
        assert kind.__name__ in drawn, f"{kind.__name__} is missing in the tree"


def test_reasons_are_stable_upper_snake_and_unique() -> None:
    reasons = [kind.reason for kind in _error_classes()]
    assert all(r == r.upper() and r.replace("_", "").isalnum() for r in reasons)
    leaves = [k for k in _error_classes() if not k.__subclasses__()]
    assert len({k.reason for k in leaves}) == len(leaves)


def test_invalid_argument_names_field_problem_and_remedy() -> None:
    error = errors.InvalidArgument("n", "is 9", remedy="use at most 8")
    assert str(error) == "n: is 9; use at most 8"
    assert error.metadata == {"field": "n"}
    assert not error.retryable


def test_setup_errors_say_what_to_do() -> None:
    assert str(errors.ModelError("no weights", remedy="download them")) == "no weights\n  → download them"


def test_retry_after_travels() -> None:
    error = errors.Overloaded("busy", retry_after_s=1.5)
    assert error.retry_after_s == 1.5
    assert error.retryable


def test_deadline_names_its_stage() -> None:
    assert errors.DeadlineExceeded("late", stage="queue").metadata == {"stage": "queue"}


def test_environment_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("NO_COLOR", "1")
    environment = read_environment()
    assert environment.cache_folder == tmp_path / "cache" / "tandem"
    assert environment.run_folder == tmp_path / "run" / "tandem"
    assert environment.no_color
    assert not environment.hub_offline


def test_run_folder_without_a_runtime_dir_is_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/var/tmp")
    folder = read_environment().run_folder
    assert folder.parent == Path("/var/tmp")
    assert folder.name.startswith("tandem-")


class _Section(ConfigModel):
    size: int = pydantic.Field(default=4, ge=1)
    """How many."""


def test_config_is_frozen_and_strict_about_keys() -> None:
    section = _Section()
    with pytest.raises(pydantic.ValidationError):
        setattr(section, "size", 5)  # noqa: B010 - mypy would refuse the plain assignment
    with pytest.raises(pydantic.ValidationError):
        _Section.model_validate({"sise": 3})
    assert _Section.model_fields["size"].description == "How many."


def test_json_log_lines_carry_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    configure_logging(style="json", worker="decode-0")
    structlog.get_logger().info("ready", num_blocks=3)
    structlog.get_logger().debug("hidden")
    structlog.contextvars.clear_contextvars()
    structlog.reset_defaults()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["event"], line["worker"], line["num_blocks"]) for line in lines] == [("ready", "decode-0", 3)]
