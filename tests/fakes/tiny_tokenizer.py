"""A byte-level BPE tokenizer of 320 tokens, saved the way model folders carry it. Every UTF-8 text round-trips."""

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

VOCAB_SIZE = 320
END_OF_TEXT, TURN_START, TURN_END, PAD = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"
SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END, PAD)
END_OF_TEXT_ID, TURN_START_ID, TURN_END_ID, PAD_ID = range(4)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# 60 merges; "Ġ" is the byte-level space. The non-ASCII ones build é, 日 and half of an emoji.
_MERGES = (
    "t h|th e|Ġ the|i n|a n|e r|o u|r e|o n|a t|e n|Ġ a|Ġ t|Ġ s|in g|an d|Ġ w|Ġ b|Ġ o|e s|o r|i s|i t|Ġ c|a r|l l|e d|"
    "Ġ f|Ġ p|Ġ m|o f|Ġ in|Ġ and|Ġ of|s t|Ġ h|v e|c h|Ġ d|Ġt o|e l|o m|i c|r o|s e|Ġ is|m e|u s|er s|l y|"
    "a l|i d|u n|y ou|Ã ©|æ Ĺ|æĹ ¥|ð Ł|w e|h a"
)


def _merges() -> list[tuple[str, str]]:
    return [(left, right) for left, right in (merge.split(" ") for merge in _MERGES.split("|"))]


def build_tokenizer() -> Tokenizer:
    """Build the tokenizer: four special tokens (ids 0..3), 256 bytes, 60 merges."""
    names = [*SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in _merges())]
    vocabulary = {name: index for index, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=_merges()))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL_TOKENS])
    if tokenizer.get_vocab_size() != VOCAB_SIZE:
        raise ValueError(f"the tiny vocabulary has {tokenizer.get_vocab_size()} tokens, not {VOCAB_SIZE}")
    return tokenizer


def save_tiny_tokenizer(folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json (chat template included) into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    build_tokenizer().save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": TURN_END,
        "pad_token": PAD,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1024,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
