"""Field readers of the model folder, and text from outside."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.core.errors import InvalidArgument, ModelError
from tandem.text import model_files
from tandem.text.model_files import integer_of, read_model_text_files, token_ids_of, token_text_of
from tandem.text.utf8 import decode_utf8, require_encodable
from tests.unit.text.small_tokenizers import llama2, write_folder

PATH = Path("config.json")


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        ({"a": 3, "b": 4}, 3),
        ({"b": 4}, 4),
        ({"a": None, "b": 4}, 4),
        ({"a": 0, "b": -1}, None),
        ({"a": 2.5, "b": "7"}, None),
        ({"a": True}, None),
        ({"a": 10**30, "b": 9}, 9),
        ({"text_config": {"a": 5}}, 5),
        ({"a": 6, "text_config": {"a": 5}}, 6),
        ({"text_config": [1]}, None),
        ({}, None),
    ],
)
def test_first_usable_integer(mapping: dict[str, object], expected: int | None) -> None:
    assert integer_of(mapping, "a", "b") == expected


@pytest.mark.parametrize(("value", "expected"), [(None, ()), (0, (0,)), ([], ()), ([2, 1], (2, 1)), (7, (7,))])
def test_one_id_or_many(value: object, expected: tuple[int, ...]) -> None:
    assert token_ids_of({"eos_token_id": value}, "eos_token_id", PATH) == expected


@pytest.mark.parametrize("value", [True, -1, "2", 1.0, [None], [[1]], {"id": 1}])
def test_ids_of_another_kind_are_refused(value: object) -> None:
    with pytest.raises(ModelError, match=r"config\.json: eos_token_id is"):
        token_ids_of({"eos_token_id": value}, "eos_token_id", PATH)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("</s>", "</s>"), ({"content": "</s>", "lstrip": False}, "</s>"), ("", None), (None, None), ({}, None), (3, None)],
)
def test_text_of_a_special_token(value: object, expected: str | None) -> None:
    assert token_text_of(value) == expected


def test_files_too_large_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path, llama2())
    monkeypatch.setattr(model_files, "_MAX_FILE_BYTES", 1 << 10)
    with pytest.raises(ModelError, match=r"tokenizer\.json: larger than"):
        read_model_text_files(tmp_path)


def test_a_folder_in_a_file_s_place_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path, llama2())
    (tmp_path / "config.json").mkdir()
    with pytest.raises(ModelError, match=r"config\.json: Is a directory") as caught:
        read_model_text_files(tmp_path)
    assert caught.value.remedy


@given(st.binary(max_size=12))
def test_bytes_are_text_or_a_named_error(data: bytes) -> None:
    try:
        expected = data.decode("utf-8")
    except UnicodeDecodeError as error:
        with pytest.raises(InvalidArgument, match=f"at offset {error.start};"):
            decode_utf8(data, "prompt.text")
    else:
        assert decode_utf8(data, "prompt.text") == expected


@given(st.text(st.characters(categories=["L", "Cs"]), max_size=8))
def test_text_is_encodable_or_a_named_error(text: str) -> None:
    has_surrogate = any(0xD800 <= ord(character) < 0xE000 for character in text)
    if has_surrogate:
        with pytest.raises(InvalidArgument, match=r"lone surrogate U\+D[89A-F]"):
            require_encodable(text, "prompt.text")
    else:
        assert require_encodable(text, "prompt.text") is text
