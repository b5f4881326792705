"""What CI may run a second time (.ci/again.py)."""

import importlib.util
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location("again", Path(__file__).parents[2] / ".ci" / "again.py")
assert _SPEC is not None
assert _SPEC.loader is not None
again = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(again)

LIVE = "tests/e2e/test_demo.py::test_a"


@pytest.mark.parametrize(
    ("failed", "expected"),
    [
        ([], False),  # no test failed: lint, types, or a collection that broke
        ([LIVE], True),
        ([LIVE, "tests/integration/router/test_b.py::test_c[1]"], True),
        ([f"{LIVE}{n}" for n in range(3)], False),
        ([LIVE, "tests/unit/core/test_d.py::test_e"], False),
        (["tests/stateful/test_f.py::test_g"], False),
    ],
)
def test_only_a_few_tests_of_live_processes_run_again(failed: list[str], expected: bool) -> None:
    assert again.may_run_again(failed, num_left_out=0) is expected
    assert not again.may_run_again(failed, num_left_out=1)
