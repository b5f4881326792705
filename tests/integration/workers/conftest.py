"""One tiny prepared model for all tests of this folder."""

import pytest

from tandem.core.prepared_model import PreparedModel
from tests.fakes.prepared_tiny import prepare_tiny


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> PreparedModel:
    return prepare_tiny("llama", tmp_path_factory.mktemp("tiny-llama"))
