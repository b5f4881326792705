"""Loading a model folder, and agreement with transformers."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from tandem.core.errors import InvalidArgument, ModelError
from tandem.text.tokenizer import Tokenizer, decode_utf8
from tests.unit.text.small_tokenizers import CORPUS, byte_level, llama2, wrapped, write_folder


def test_loads_a_whole_folder(tmp_path: Path) -> None:
    write_folder(
        tmp_path,
        byte_level(),
        tokenizer_config={"eos_token": {"content": "<|end|>"}, "bos_token": "<|start|>", "pad_token": None},
        generation_config={"eos_token_id": [7, 5]},
        config={"vocab_size": 512, "max_position_embeddings": 2048, "eos_token_id": 9},
        chat_template="{{ messages[0].content }}",
    )
    tokenizer = Tokenizer.load(tmp_path)
    end = tokenizer.backend.token_to_id("<|end|>")
    assert tokenizer.vocab_size == 512
    assert tokenizer.tokenizer_vocab_size == 406
    assert tokenizer.max_context_tokens == 2048
    assert tokenizer.eos_token_ids == (5, 7, end)
    assert tokenizer.special_token_ids == {400, 401, 402}
    assert tokenizer.special_tokens == {"eos_token": "<|end|>", "bos_token": "<|start|>"}
    assert tokenizer.digest == hashlib.sha256((tmp_path / "tokenizer.json").read_bytes()).hexdigest()
    assert tokenizer.chat_template is not None
    assert tokenizer.chat_template.source == "{{ messages[0].content }}"
    assert tokenizer.chat_template.special_tokens["bos_token"] == "<|start|>"


def test_tokenizer_json_alone_is_enough(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write_folder(tmp_path, llama2()))
    assert tokenizer.vocab_size == tokenizer.tokenizer_vocab_size
    assert tokenizer.eos_token_ids == ()
    assert tokenizer.max_context_tokens is None
    assert tokenizer.chat_template is None


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"generation_config": {"eos_token_id": 3}, "config": {"eos_token_id": 4}}, (3,)),
        ({"generation_config": {}, "config": {"eos_token_id": [4, 3]}}, (3, 4)),
        ({"generation_config": {"eos_token_id": None}, "config": {"text_config": {"eos_token_id": 4}}}, (4,)),
        ({"config": {"eos_token_id": 0}}, (0,)),
        ({"tokenizer_config": {"eos_token": "</s>"}}, (2,)),
        ({"tokenizer_config": {"eos_token": "</s>"}, "config": {"eos_token_id": 2}}, (2,)),
        ({"tokenizer_config": {"eos_token": "no such token"}}, ()),
    ],
)
def test_end_tokens(tmp_path: Path, files: dict[str, object], expected: tuple[int, ...]) -> None:
    assert Tokenizer.load(write_folder(tmp_path, llama2(), **files)).eos_token_ids == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"config": {"text_config": {"max_position_embeddings": 77}}}, 77),
        ({"config": {"n_positions": 1024}}, 1024),
        ({"tokenizer_config": {"model_max_length": 512}}, 512),
        ({"tokenizer_config": {"model_max_length": int(1e30)}}, None),
        ({"config": {"max_position_embeddings": True}}, None),
    ],
)
def test_context_length(tmp_path: Path, files: dict[str, object], expected: int | None) -> None:
    assert Tokenizer.load(write_folder(tmp_path, llama2(), **files)).max_context_tokens == expected


def test_template_from_tokenizer_config_by_its_name(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    write_folder(tmp_path, llama2(), tokenizer_config={"chat_template": named})
    template = Tokenizer.load(tmp_path).chat_template
    assert template is not None
    assert template.source == "D"
    (tmp_path / "chat_template.jinja").write_text("J")
    template = Tokenizer.load(tmp_path).chat_template
    assert template is not None
    assert template.source == "J"  # the file wins


def test_saved_truncation_and_padding_are_off(tmp_path: Path) -> None:
    backend = byte_level()
    backend.enable_truncation(max_length=4)
    backend.enable_padding(length=64)
    tokenizer = Tokenizer.load(write_folder(tmp_path, backend))
    ids = tokenizer.encode(CORPUS[0], add_special_tokens=False)
    assert 4 < len(ids) != 64
    assert tokenizer.decode(ids) == CORPUS[0]


def test_post_processor_adds_the_begin_token_only_when_asked() -> None:
    tokenizer = wrapped("llama2")
    assert tokenizer.encode("the")[0] == 1
    assert tokenizer.encode("the")[1:] == tokenizer.encode("the", add_special_tokens=False)


def test_special_tokens_stay_in_the_text_when_asked() -> None:
    tokenizer = wrapped("byte_level")
    ids = tokenizer.encode("hi<|end|>")
    assert tokenizer.decode(ids) == "hi"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "<|start|>hi<|end|>"


@pytest.mark.parametrize("token_id", [-1, 10_000, 2**32, 2**70])
def test_ids_out_of_range_are_refused(token_id: int) -> None:
    with pytest.raises(InvalidArgument, match=f"token_ids: holds the id {token_id}; ids of this model go from 0 to"):
        wrapped("llama2").decode([1, token_id])


def test_lone_surrogates_are_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"lone surrogate U\+D800 at character 2"):
        wrapped("byte_level").encode("ab\ud800")


def test_bad_utf8_names_the_place() -> None:
    assert decode_utf8("né".encode(), "prompt.text") == "né"
    with pytest.raises(InvalidArgument, match=r"prompt.text: is not valid UTF-8: byte 0xe9 at offset 2") as caught:
        decode_utf8(b"ab\xe9!", "prompt.text")
    assert caught.value.field == "prompt.text"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("tokenizer.json", b"{", "tokenizers library can't read it"),
        ("tokenizer.json", b"\xff\xfe", "not UTF-8 at byte 0"),
        ("tokenizer_config.json", b"[1]", "holds a list where an object belongs"),
        ("config.json", b'{"vocab_size": ', "not valid JSON"),
        ("config.json", b"[" * 100_000, "not valid JSON"),
        ("generation_config.json", b'{"eos_token_id": "two"}', "eos_token_id is 'two'"),
        ("generation_config.json", b'{"eos_token_id": [-1]}', r"eos_token_id is \[-1\]"),
        ("tokenizer_config.json", b'{"chat_template": 3}', "chat_template is a int"),
        ("chat_template.jinja", b"\xff", "not UTF-8"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    write_folder(tmp_path, llama2())
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=words) as caught:
        Tokenizer.load(tmp_path)
    assert name in str(caught.value)
    assert caught.value.remedy


def test_missing_folder_and_missing_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such model folder"):
        Tokenizer.load(tmp_path / "nothing")
    with pytest.raises(ModelError, match=r"tokenizer\.json: missing") as caught:
        Tokenizer.load(tmp_path)
    assert "save_pretrained" in caught.value.remedy


def test_nothing_here_loads_torch_or_transformers() -> None:
    code = (
        "import sys, tandem.text.chat, tandem.text.stream, tandem.text.tokenizer;"
        "print([name for name in ('torch', 'transformers', 'triton', 'ray') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == "[]"
