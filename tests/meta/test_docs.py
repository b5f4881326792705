"""Documents name real things: every dotted name, repository path and make target in a Markdown file exists."""

import importlib
import re
from pathlib import Path

import pytest

from tandem.core.failpoints import POINTS
from tests.meta.source_files import ROOT, tracked

DOCUMENTS = [path for path in tracked("*.md") if path.name != "CHANGELOG.md"]
DOTTED = re.compile(r"`(tandem(?:\.[a-z_][a-z0-9_]*)+(?:\.[A-Z]\w*)?)`")
PROTO_PACKAGE = re.compile(r"^tandem\.(inference|worker|admin)\.v1")
REPO_PATH = re.compile(r"`((?:[\w.-]+/)+[\w.-]+\.(?:py|md|yaml|proto|toml|json|pml))`")
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")
TARGET = re.compile(r"`make ([a-z-]+)")


def _ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _resolves(name: str) -> bool:
    if PROTO_PACKAGE.match(name):
        return True
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[cut:]:
            if not hasattr(found, attribute):
                return False
            found = getattr(found, attribute)
        return True
    return False


@pytest.mark.parametrize("path", DOCUMENTS, ids=_ids)
def test_names_in_documents_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert [name for name in DOTTED.findall(text) if not _resolves(name)] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=_ids)
def test_paths_in_documents_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    missing = [
        name for name in REPO_PATH.findall(text) if not ((ROOT / name).exists() or (path.parent / name).exists())
    ]
    missing += [link for link in LINK.findall(text) if not (path.parent / link).exists()]
    assert missing == []


def test_every_failpoint_is_in_the_table_and_nothing_else() -> None:
    text = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    table = text.partition("| point | where it holds |")[2].partition("\n\n")[0]
    first_column = " ".join(line.split("|")[1] for line in table.splitlines() if line.count("|") > 2)
    assert set(re.findall(r"`([a-z_.]+)`", first_column)) == set(POINTS)


@pytest.mark.parametrize("path", DOCUMENTS, ids=_ids)
def test_make_targets_in_documents_exist(path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert set(TARGET.findall(path.read_text(encoding="utf-8"))) <= targets


@pytest.mark.parametrize("path", tracked("*.md"), ids=_ids)
def test_no_merge_has_left_its_marks(path: Path) -> None:
    marks = [line for line in path.read_text("utf-8").splitlines() if line.startswith(("<<<<<<< ", ">>>>>>> "))]
    assert marks == []
