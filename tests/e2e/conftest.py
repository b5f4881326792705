"""A prepared tiny model, made once, and command lines in worlds of their own."""

from pathlib import Path

import pytest

from tandem.core.prepared_model import PreparedModel
from tests.fakes.command_line import CommandLine
from tests.fakes.prepared_tiny import prepare_tiny
from tests.fakes.tiny_models import make_tiny_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> PreparedModel:
    """A Llama of a few thousand weights, as a prepared folder."""
    return prepare_tiny("llama", tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def shell(tmp_path: Path) -> CommandLine:
    """A world of its own."""
    return CommandLine(tmp_path / "home")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as a plain Hugging Face folder."""
    return make_tiny_model("llama", tmp_path_factory.mktemp("plain") / "tiny-llama")
