"""Everything in this folder needs a CUDA device and compiled kernels, and says so where there is none."""

from pathlib import Path

import pytest
import torch
import triton

_FOLDER = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark this folder's tests; skip them where they can't run."""
    reason = ""
    if not torch.cuda.is_available():
        reason = "needs a CUDA device"
    elif triton.knobs.runtime.interpret:
        reason = "TRITON_INTERPRET is set: the kernels would be interpreted, not compiled"
    for item in items:
        if item.path.is_relative_to(_FOLDER):
            item.add_marker(pytest.mark.gpu)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))
