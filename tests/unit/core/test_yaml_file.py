"""Configuration files: positions, suggestions, refusals."""

from pathlib import Path
from typing import Literal

import pydantic
import pytest

from tandem.core.config.model import ConfigModel
from tandem.core.config.yaml_file import load_yaml_config, parse_yaml_config, read_yaml_values
from tandem.core.errors import ConfigError


class Pool(ConfigModel):
    replicas: int = pydantic.Field(default=1, ge=1)
    """Workers."""
    labels: dict[str, str] = pydantic.Field(default_factory=dict)
    """Labels."""


class Tls(ConfigModel):
    cert: str = ""
    """File."""


class Cluster(ConfigModel):
    api_version: str = pydantic.Field(alias="apiVersion")
    """Version."""
    pools: dict[str, Pool] = pydantic.Field(default_factory=dict)
    """Pools by role."""
    prefill: Pool = Pool()
    """One pool."""
    tls: Tls | None = None
    """Optional section."""
    colour: Literal["Red", "Green"] = "Red"
    """A choice."""
    word: str = ""
    """A word."""
    flag: bool = False
    """A switch."""
    hosts: list[Pool] = pydantic.Field(default_factory=list)
    """A list."""


def _error(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_yaml_config(text, Cluster, name="c.yaml")
    return str(caught.value) + "\n"


def test_a_good_file_loads() -> None:
    loaded = parse_yaml_config("apiVersion: v1\nprefill: {replicas: 3}\ntls:\n  cert: a\n", Cluster, name="c.yaml")
    assert loaded.prefill.replicas == 3
    assert loaded.tls == Tls(cert="a")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("apiVersion: v1\nprefil: {}\n", "c.yaml:2:1: prefil: unknown key; did you mean 'prefill'?"),
        ("apiversion: v1\n", "c.yaml:1:1: apiversion: unknown key; did you mean 'apiVersion'?"),
        (
            "apiVersion: v1\nprefill:\n  replica: 2\n",
            "c.yaml:3:3: prefill.replica: unknown key; did you mean 'replicas'?",
        ),
        ("apiVersion: v1\ntls:\n  certt: x\n", "c.yaml:3:3: tls.certt: unknown key; did you mean 'cert'?"),
        ("apiVersion: v1\nprefill: {replicas: 0}\n", "c.yaml:2:11: prefill.replicas: input should be greater than"),
        ("apiVersion: v1\nprefill: {replicas: many}\n", "(got 'many')"),
        ("apiVersion: v1\nhosts:\n  - replicas: 1\n  - replicas: -1\n", "c.yaml:4:5: hosts[1].replicas:"),
        ("apiVersion: v1\npools: {a: {zzz: 1}}\n", "pools.a.zzz: unknown key; known keys: labels, replicas"),
        ("prefill: {}\n", "c.yaml:1:1: apiVersion: is missing"),
        ("prefill: {}\n", "apiVersion: is missing; add it: Version."),
        ("", "apiVersion: is missing"),
        ("apiVersion: v1\ncolour: Gren\n", "input should be 'Red' or 'Green' (got 'Gren'); did you mean 'Green'?"),
        ("apiVersion: v1\ncolour: green\n", "(got 'green'); did you mean 'Green'?"),
        ("apiVersion: v1\ncolour: 7\n", "input should be 'Red' or 'Green' (got 7)\n"),
        ("- a\n- b\n", "c.yaml:1:1: (file): takes keys with values (`key: value`), and is a list\n"),
        ("apiVersion: v1\nprefill: 5\n", "c.yaml:2:1: prefill: takes keys with values (`key: value`), and is 5\n"),
        ("apiVersion: v1\npools:\n", "c.yaml:2:1: pools: takes keys with values (`key: value`), and is nothing\n"),
        ("a: [1\n", "not valid YAML"),
        ("apiVersion: v1\napiVersion: v2\n", "c.yaml:2:1: apiVersion: is given twice"),
        ("apiVersion: &a v1\ntls: *a\n", "c.yaml:2:6: aliases and tags are not allowed"),
        ("apiVersion: !!python/object:os.system x\n", "aliases and tags are not allowed"),
        ("? [a, b]\n: 1\n", "a key must be a plain word"),
    ],
)
def test_every_complaint_names_place_and_remedy(text: str, expected: str) -> None:
    assert expected in _error(text)


@pytest.mark.parametrize("word", ["Off", "on", "yes", "No", "1:4", "18:30", "190:20:30.15"])
def test_plain_words_mean_what_yaml_1_2_says(word: str) -> None:
    """YAML 1.1 makes `Off` a boolean and `18:30` the number 1110; editors, which speak 1.2, would not show it."""
    assert parse_yaml_config(f"apiVersion: v1\nword: {word}\n", Cluster, name="c.yaml").word == word


@pytest.mark.parametrize(("word", "meant"), [("true", True), ("False", False), ("yes", True), ("off", False)])
def test_switches_may_still_be_written_as_before(word: str, meant: bool) -> None:
    assert parse_yaml_config(f"apiVersion: v1\nflag: {word}\n", Cluster, name="c.yaml").flag is meant


@pytest.mark.parametrize(
    ("text", "value"), [("1e-6", 1e-6), ("2E3", 2000.0), (".5e1", 5.0), ("'1e-6'", "1e-6"), ("1e", "1e"), ("e5", "e5")]
)
def test_exponents_are_numbers_unless_quoted(text: str, value: object) -> None:
    assert read_yaml_values(f"a: {text}\n", name="x") == {"a": value}


def test_foreign_yaml_is_read_unchecked() -> None:
    assert read_yaml_values("a: [1, {b: Off}]\n", name="x") == {"a": [1, {"b": "Off"}]}
    with pytest.raises(ConfigError, match="x:2:4: aliases and tags"):
        read_yaml_values("a: &b 1\nc: *b\n", name="x")


def test_all_problems_are_listed_at_once() -> None:
    assert len(_error("x: 1\ny: 2\n").splitlines()) == 3


def test_missing_large_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: can't be read"):
        load_yaml_config(tmp_path / "none.yaml", Cluster)
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        load_yaml_config(large, Cluster)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"a: \xff\n")
    with pytest.raises(ConfigError, match="byte 3 is not UTF-8"):
        load_yaml_config(binary, Cluster)


def test_messages_never_hold_a_traceback_or_a_url() -> None:
    text = _error("apiVersion: v1\nprefill: 3\n")
    assert "http" not in text
    assert "Traceback" not in text
