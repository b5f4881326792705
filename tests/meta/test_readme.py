"""What a reader would copy from the documents works: commands and options exist, snippets compile, YAML is accepted."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main

from tandem.cluster.cli.app import app
from tandem.cluster.config.model import ClusterConfig
from tandem.cluster.config.schemas import SCHEMA_FILE, render_cluster_schema
from tandem.controller.policy.model import AutoscalingPolicy
from tandem.core.config.yaml_file import load_yaml_config, parse_yaml_config
from tests.meta.source_files import ROOT, tracked

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(tandem [a-z][^`]*)`")
LINE = re.compile(r"^(?:\$ )?(tandem [a-z].*)$", re.MULTILINE)
DOCUMENTS = [path for path in tracked("*.md") if path.name != "CHANGELOG.md"]


def fences(path: Path, language: str) -> list[str]:
    """Return the fenced blocks of a document in one language."""
    return [text for kind, text in FENCE.findall(path.read_text(encoding="utf-8")) if kind == language]


def commands(path: Path) -> list[str]:
    """Return every `tandem …` command line that a document shows."""
    text = path.read_text(encoding="utf-8")
    shown = [line for block in fences(path, "") + fences(path, "console") for line in LINE.findall(block)]
    return [*INLINE.findall(text), *shown]


def problem_of(line: str) -> str:
    """Return what is wrong with a command line; empty when its command and options exist."""
    words = shlex.split(line, comments=True)[1:]
    command: Any = typer.main.get_command(app)
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        if words[0] not in command.commands:
            return f"{line}: no command {words[0]!r}"
        command, words = command.commands[words[0]], words[1:]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    unknown = [word for word in words if word.startswith("-") and word != "-" and word not in known | {"--help"}]
    return f"{line}: no option {unknown[0]}" if unknown else ""


def _ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", DOCUMENTS, ids=_ids)
def test_commands_in_documents_exist(path: Path) -> None:
    assert [problem for line in commands(path) if (problem := problem_of(line))] == []


def test_a_wrong_command_is_seen() -> None:
    assert problem_of("tandem certs init --host example.org") == ""
    assert "no command" in problem_of("tandem fly")
    assert "no command" in problem_of("tandem certs forge")
    assert "no option" in problem_of("tandem up --fast")


def test_the_readme_shows_the_main_commands() -> None:
    shown = {shlex.split(line, comments=True)[1] for line in commands(ROOT / "README.md")}
    assert {"demo", "up", "down", "status", "generate", "chat", "doctor", "init"} <= shown


@pytest.mark.parametrize("path", DOCUMENTS, ids=_ids)
def test_python_in_documents_compiles(path: Path) -> None:
    for number, text in enumerate(fences(path, "python")):
        compile(text, f"{path.name}#{number}", "exec")


@pytest.mark.parametrize("path", DOCUMENTS, ids=_ids)
def test_files_in_documents_are_accepted(path: Path) -> None:
    for number, text in enumerate(fences(path, "yaml")):
        if "kind: Cluster" in text:
            parse_yaml_config(text, ClusterConfig, name=f"{path.name}#{number}")
        if "kind: AutoscalingPolicy" in text:
            parse_yaml_config(text, AutoscalingPolicy, name=f"{path.name}#{number}")


@pytest.mark.parametrize("path", tracked("deploy/examples/*.yaml"), ids=_ids)
def test_examples_are_accepted(path: Path) -> None:
    if path.name.endswith(".policy.yaml"):
        load_yaml_config(path, AutoscalingPolicy)
    else:
        load_yaml_config(path, ClusterConfig)


def test_the_committed_schema_is_fresh() -> None:
    committed = (ROOT / "deploy" / "schemas" / SCHEMA_FILE).read_text(encoding="utf-8")
    assert committed == render_cluster_schema(), "run `make schemas`"
