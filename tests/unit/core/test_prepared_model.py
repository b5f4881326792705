"""Reading a prepared model's manifest: fast, without torch, and with an error that says what to do."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tandem.core.errors import ModelError
from tandem.core.prepared_model import PreparedModel, read_prepared_model, write_manifest


@pytest.fixture
def model(tmp_path: Path) -> PreparedModel:
    made = PreparedModel(
        folder=tmp_path,
        name="smollm2",
        digest="ab" * 32,
        source="builtin:smollm2",
        dtype="float32",
        architecture="llama",
        vocab_size=49152,
        max_context_tokens=8192,
        eos_token_ids=(2, 0),
        weights_bytes=4,
    )
    (tmp_path / "model.safetensors").write_bytes(b"data")
    write_manifest(made)
    return made


def test_what_is_written_is_read(model: PreparedModel) -> None:
    assert read_prepared_model(model.folder) == model


def test_the_manifest_does_not_name_its_folder(model: PreparedModel, tmp_path: Path) -> None:
    """So that a folder can be moved or shared."""
    assert str(tmp_path) not in (model.folder / "tandem.json").read_text()


def test_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"not a prepared model[\s\S]*→ prepare the model again"):
        read_prepared_model(tmp_path)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a prepared model"):
        read_prepared_model(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 99}', "\x00"])
def test_broken_manifest(model: PreparedModel, text: str) -> None:
    (model.folder / "tandem.json").write_text(text)
    with pytest.raises(ModelError, match=r"can't be read|not of format"):
        read_prepared_model(model.folder)


def test_manifest_that_is_not_text(model: PreparedModel) -> None:
    (model.folder / "tandem.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelError, match="can't be read"):
        read_prepared_model(model.folder)


@pytest.mark.parametrize("field", ["name", "digest", "dtype", "vocab_size", "eos_token_ids", "max_context_tokens"])
def test_manifest_without_a_field(model: PreparedModel, field: str) -> None:
    path = model.folder / "tandem.json"
    fields = json.loads(path.read_text())
    del fields[field]
    path.write_text(json.dumps(fields))
    with pytest.raises(ModelError, match=field):
        read_prepared_model(model.folder)


def test_manifest_with_a_field_of_the_wrong_kind(model: PreparedModel) -> None:
    path = model.folder / "tandem.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_size": "many"}))
    with pytest.raises(ModelError, match="broken"):
        read_prepared_model(model.folder)


def test_lost_weights(model: PreparedModel) -> None:
    (model.folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"lost its model\.safetensors"):
        read_prepared_model(model.folder)


def test_reading_does_not_load_torch() -> None:
    code = "import sys, tandem.core.prepared_model; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_weights_cut_short(model: PreparedModel) -> None:
    (model.folder / "model.safetensors").write_bytes(b"dat")
    with pytest.raises(ModelError, match="has 3 bytes, its manifest says 4"):
        read_prepared_model(model.folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vocab_size", None),
        ("max_context_tokens", [1]),
        ("weights_bytes", "4 bytes"),
        ("eos_token_ids", 2),
        ("eos_token_ids", ["two"]),
        ("eos_token_ids", None),
    ],
)
def test_fields_of_a_wrong_kind_never_escape_as_another_error(model: PreparedModel, field: str, value: object) -> None:
    path = model.folder / "tandem.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(ModelError, match="is broken"):
        read_prepared_model(model.folder)


def test_fields_of_a_later_release_are_no_error(model: PreparedModel) -> None:
    path = model.folder / "tandem.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"added_later": True}))
    assert read_prepared_model(model.folder) == model


def test_a_moved_folder_is_read_where_it_is(model: PreparedModel, tmp_path: Path) -> None:
    moved = tmp_path.parent / f"{tmp_path.name}-moved"
    tmp_path.rename(moved)
    found = read_prepared_model(moved)
    assert found.folder == moved
    assert found.digest == model.digest


def test_the_manifest_of_one_model_is_the_same_bytes_every_time(model: PreparedModel) -> None:
    first = (model.folder / "tandem.json").read_bytes()
    write_manifest(model)
    assert (model.folder / "tandem.json").read_bytes() == first
    assert first.endswith(b"}\n")


def test_a_folder_in_place_of_the_manifest(model: PreparedModel) -> None:
    (model.folder / "tandem.json").unlink()
    (model.folder / "tandem.json").mkdir()
    with pytest.raises(ModelError, match="can't be read"):
        read_prepared_model(model.folder)
