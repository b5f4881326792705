"""Fixtures of the supervision tests."""

from pathlib import Path

import pytest

from tests.fakes.cluster_stage import Stage


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """An empty stage for fake programs."""
    return Stage(tmp_path)
