"""Sizes as people write them."""

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.core.config.model import ConfigModel
from tandem.core.config.units import Bytes, parse_bytes


class _Section(ConfigModel):
    size: Bytes
    """How much."""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", 1),
        ("12B", 12),
        ("512MiB", 512 << 20),
        ("1.5GiB", 3 << 29),
        ("2GB", 2_000_000_000),
        (" 3 KiB ", 3072),
        ("1kb", 1000),
        ("1TiB", 1 << 40),
        ("0.5KiB", 512),
        (4096, 4096),
    ],
)
def test_sizes(text: object, expected: int) -> None:
    assert _Section.model_validate({"size": text}).size == expected


@pytest.mark.parametrize(
    "text", ["", "MiB", "-1", "1e3", "1 2", "1,5GiB", "1.GiB", "0x10", "1PiB", "many", "1MiB/s", "٣MiB2", "1\x00"]
)
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(pydantic.ValidationError, match="512MiB"):
        _Section.model_validate({"size": text})


@pytest.mark.parametrize("value", [0, -5, "0", "0.1B", None, [1], 1.5])
def test_what_is_no_positive_count_is_refused(value: object) -> None:
    with pytest.raises(pydantic.ValidationError):
        _Section.model_validate({"size": value})


@given(st.integers(1, 2**50), st.sampled_from(["", "B"]))
def test_plain_bytes_are_exact(count: int, unit: str) -> None:
    assert parse_bytes(f"{count}{unit}") == count


@given(st.integers(1, 1023), st.sampled_from(["KiB", "MiB", "GiB", "KB", "MB", "GB", "TB", "TiB"]))
def test_case_and_spaces_do_not_matter(count: int, unit: str) -> None:
    sizes = {parse_bytes(text) for text in (f"{count}{unit}", f"{count} {unit.lower()}", f" {count}{unit.upper()} ")}
    assert len(sizes) == 1


def test_the_schema_tells_editors_that_text_is_fine_too() -> None:
    schema = _Section.model_json_schema()["properties"]["size"]
    assert {choice["type"] for choice in schema["anyOf"]} == {"integer", "string"}
