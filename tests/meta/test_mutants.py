"""Every patch of tests/mutants still fits the code, changes it, and has tests; `make mutants` runs them."""

import ast
from pathlib import Path

import pytest

from benchmarks.mutant_list import TESTS
from benchmarks.mutants import PATCHES, ROOT, components
from benchmarks.patches import PatchFailed, apply_patch, read_patch

FILES = sorted(PATCHES.glob("*.patch"))
# R8 and R9 have nothing in the code to remove.
GUARDS = ("R1-", "R2-", "R3-", "R4-", "R5-", "R6-", "R7-", "R10-", "delta-")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_patch_fits_and_leaves_valid_code(file: Path) -> None:
    patch = read_patch(file)
    text = apply_patch(patch, ROOT)
    assert text != (ROOT / patch.path).read_text(encoding="utf-8")
    ast.parse(text)


def test_every_patch_has_tests_and_every_list_of_tests_a_patch() -> None:
    assert {file.stem for file in FILES} == TESTS.keys()
    assert [path for tests in TESTS.values() for path in tests if not (ROOT / path.split("::")[0]).exists()] == []


@pytest.mark.parametrize("guard", GUARDS)
def test_every_guard_of_the_hand_over_has_a_patch(guard: str) -> None:
    assert any(file.stem.startswith(guard) for file in FILES)


def test_components_are_those_that_hold_code() -> None:
    assert {"kvtransfer", "engine", "router", "core", "chaos"} <= set(components())
    assert "proto" not in components()


def test_a_patch_that_fits_nowhere_or_twice_is_an_error(tmp_path: Path) -> None:
    diff = tmp_path / "guard.patch"
    diff.write_text("--- a/code.py\n+++ b/code.py\n@@ -1,2 +1,1 @@\n a = 1\n-b = 2\n", encoding="utf-8")
    code = tmp_path / "code.py"
    patch = read_patch(diff)
    with pytest.raises(PatchFailed, match=r"no code\.py"):
        apply_patch(patch, tmp_path)
    code.write_text("x = 0\na = 1\nb = 2\n", encoding="utf-8")
    assert apply_patch(patch, tmp_path) == "x = 0\na = 1\n"
    for text in ("a = 1\nb = 3\n", "a = 1\nb = 2\na = 1\nb = 2\n"):
        code.write_text(text, encoding="utf-8")
        with pytest.raises(PatchFailed, match="make the patch again"):
            apply_patch(patch, tmp_path)


@pytest.mark.parametrize("text", ["", "+++ b/a.py\n+++ b/b.py\n@@ -1 +1 @@\n", "+++ b/a.py\nno hunk\n"])
def test_what_is_no_patch_of_one_file_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "bad.patch"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(PatchFailed):
        read_patch(file)
