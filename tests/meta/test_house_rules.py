"""House rules that no linter knows: file size, where the environment is read, banned calls, proportions."""

import ast
import re
from pathlib import Path

import pytest

from tests.meta.source_files import ROOT, is_product, is_test, tracked

PYTHON_FILES = tracked("*.py")
PRODUCT_FILES = [path for path in PYTHON_FILES if is_product(path)]
BANNED_MODULES = {"pickle", "cloudpickle", "dill", "marshal", "shelve"}
BANNED_CALLS = {"eval", "exec", "torch.load", "yaml.load", "asyncio.wait", "recv_pyobj"}


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    return f"{_dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def test_files_stay_small() -> None:
    sizes = {_name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in PYTHON_FILES}
    assert {name: size for name, size in sizes.items() if size > 400} == {}


def test_tests_are_at_least_as_long_as_the_source() -> None:
    """Chaos is neither: it serves nobody, it is what the fault tests are made with."""
    lines = {True: 0, False: 0}
    for path in PYTHON_FILES:
        if path.relative_to(ROOT).parts[0] != "chaos" and (is_test(path) or is_product(path)):
            lines[is_test(path)] += len(path.read_text(encoding="utf-8").splitlines())
    assert lines[True] >= lines[False], f"{lines[True]} lines of tests, {lines[False]} of source"


@pytest.mark.parametrize("path", PRODUCT_FILES, ids=_name)
def test_every_module_says_what_it_is(path: Path) -> None:
    if path.read_text(encoding="utf-8").strip():
        assert ast.get_docstring(_parse(path)), f"{_name(path)} has no module docstring"


def test_no_object_deserialiser_anywhere() -> None:
    found = []
    for path in PYTHON_FILES:
        for node in ast.walk(_parse(path)):
            modules: list[str] = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            elif isinstance(node, ast.Call) and _dotted(node.func) in BANNED_CALLS:
                found.append(f"{_name(path)}:{node.lineno} calls {_dotted(node.func)}")
            found += [
                f"{_name(path)}:{node.lineno} imports {name}"  # type: ignore[attr-defined]
                for name in modules
                if name.split(".")[0] in BANNED_MODULES and not is_test(path)
            ]
    assert found == []


def test_environment_is_read_in_one_module() -> None:
    readers = [
        _name(path) for path in PRODUCT_FILES if re.search(r"os\.environ|os\.getenv", path.read_text(encoding="utf-8"))
    ]
    assert readers == ["core/tandem/core/environment.py"]


def test_tasks_are_owned() -> None:
    """A task that nobody keeps loses its exception, and may vanish; a TaskGroup's or a kept one does not."""
    found = []
    for path in PRODUCT_FILES:
        for node in ast.walk(_parse(path)):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                called = _dotted(node.value.func)
                if called.split(".")[-1] in {"create_task", "ensure_future"} and not called.startswith("group."):
                    found.append(f"{_name(path)}:{node.lineno}")
    assert found == []


def test_insecure_channels_are_made_in_one_place() -> None:
    makers = [
        _name(path)
        for path in PRODUCT_FILES
        if re.search(r"insecure_channel\(|add_insecure_port\(", path.read_text(encoding="utf-8"))
    ]
    assert makers in ([], ["rpc/tandem/rpc/channels.py"])


def test_nothing_is_left_for_later() -> None:
    marks = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    files = [path for path in tracked("*") if path.suffix in {".py", ".md", ".proto", ".yaml", ".toml", ".sh"}]
    here = Path(__file__)
    assert [_name(p) for p in files if p != here and marks.search(p.read_text(encoding="utf-8"))] == []
