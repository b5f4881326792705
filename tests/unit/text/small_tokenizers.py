"""Small tokenizers of every decoder family, and model folders to load them from."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tandem.text.model_files import ModelTextFiles
from tandem.text.tokenizer import Tokenizer

CORPUS = [
    "The quick brown fox jumps over the lazy dog. It doesn't mind; why would it?",
    "Größe, déjà vu, naïve café: words with accents. 你好、世界。こんにちは世界 🙂🙃👩‍👩‍👧",
    "def f(x):\n    return x + 1  # done\n\n\tSTOP </s> 12345 67890",
]


def byte_level() -> tokenizers.Tokenizer:
    """Like GPT-2, Llama 3, Qwen; with special tokens and awkward added ones."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_special_tokens(["<|start|>", "<|end|>", "<|wörk|>"])
    backend.add_tokens([AddedToken("<tool>"), AddedToken("a b"), AddedToken("héé")])
    start = backend.token_to_id("<|start|>")
    backend.post_processor = processors.TemplateProcessing(single="<|start|> $A", special_tokens=[("<|start|>", start)])
    return backend


def _sentencepiece_bpe() -> tokenizers.Tokenizer:
    letters = sorted({c for text in CORPUS[:1] for c in text if not c.isspace()})
    tokens = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        "▁▁",
        *letters,
        "th",
        "▁th",
        "▁the",
    ]
    vocab = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    vocab.setdefault("▁t", len(vocab))
    merges = [("t", "h"), ("▁", "th"), ("▁th", "e"), ("▁", "▁")]
    backend = tokenizers.Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.add_tokens([AddedToken("[INST]")])
    return backend


def llama2() -> tokenizers.Tokenizer:
    """Byte fallback; a space is put in front of the text and taken away again."""
    backend = _sentencepiece_bpe()
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return backend


def gemma() -> tokenizers.Tokenizer:
    """Byte fallback without the space in front."""
    backend = _sentencepiece_bpe()
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return backend


def awkward() -> tokenizers.Tokenizer:
    """Drops two spaces in front, and has a token without text: what is the text's start is then not the first token."""
    tokens = ["<unk>", "", "▁", "▁a", "b", "▁▁c", *(f"<0x{byte:02X}>" for byte in range(256))]
    backend = tokenizers.Tokenizer(
        models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[], unk_token="<unk>", byte_fallback=True)
    )
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 2, 0)]
    )
    return backend


def metaspace() -> tokenizers.Tokenizer:
    """A unigram model with the Metaspace decoder."""
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<unk>", "<s>"], unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    return backend


def word_level() -> tokenizers.Tokenizer:
    """Whole words and no decoder: tokens are joined with spaces."""
    words = ["<unk>", "<eos>", *dict.fromkeys(" ".join(CORPUS).split())]
    backend = tokenizers.Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(["<unk>", "<eos>"])
    return backend


def word_piece() -> tokenizers.Tokenizer:
    """Continuations are marked, so a word's text depends on nothing but its place."""
    words = ["[UNK]", "the", "fox", "##es", "##'", "jump", "##ed", ".", ",", "n't", "é", "##é"]
    backend = tokenizers.Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens(["[UNK]"])
    return backend


def suffix_bpe() -> tokenizers.Tokenizer:
    """Word ends are marked: the space before a token depends on the token before it."""
    vocab = {token: i for i, token in enumerate(["a", "b", "c", "a</w>", "b</w>", "ab</w>", "é</w>"])}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[], end_of_word_suffix="</w>"))
    backend.decoder = decoders.BPEDecoder()
    return backend


def mixed_chain() -> tokenizers.Tokenizer:
    """A byte-level decoder among others."""
    backend = byte_level()
    backend.decoder = decoders.Sequence([decoders.Replace("Q", "q"), decoders.ByteLevel()])
    return backend


EXACT: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    "byte_level": byte_level,
    "llama2": llama2,
    "gemma": gemma,
    "awkward": awkward,
    "metaspace": metaspace,
    "word_level": word_level,
    "word_piece": word_piece,
    "suffix_bpe": suffix_bpe,
}


@cache
def wrapped(name: str) -> Tokenizer:
    """The product's tokenizer over one of the above."""
    backend = mixed_chain() if name == "mixed_chain" else EXACT[name]()
    return Tokenizer(
        ModelTextFiles(
            folder=Path("/nowhere"),
            tokenizer_json=backend.to_str(),
            tokenizer_digest="0" * 64,
            tokenizer_config={},
            generation_config={},
            config={},
            chat_template=None,
        )
    )


def write_folder(folder: Path, backend: tokenizers.Tokenizer, **files: object) -> Path:
    """Write tokenizer.json, and each keyword as a JSON file (text as it is)."""
    backend.save(str(folder / "tokenizer.json"))
    for name, content in files.items():
        if name == "chat_template":
            (folder / "chat_template.jinja").write_text(str(content), encoding="utf-8")
        else:
            (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder
