"""The quick equality run: nine architectures, both transports, tokens equal to the references."""

import pytest

from benchmarks.equality import run, summarise
from tests.fakes.tiny_models import ARCHITECTURES


@pytest.mark.slow
async def test_split_tokens_equal_the_references() -> None:
    groups = await run(quick=True)
    result = summarise(groups)
    assert result["mismatches"] == 0, [g.first_mismatch for g in groups if g.mismatches]
    assert result["architectures"] == len(ARCHITECTURES) >= 8
    # Nearly all were handed over; one that ends at its first token needs no hand-over.
    assert result["handed_over"] >= 0.8 * result["cases"]
