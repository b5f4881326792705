"""The served model's tokenizer: text to token ids and back, and what the model folder says about its tokens.

A thin owner of one ``tokenizers.Tokenizer``. Not a model loader, and it renders no chat template: it only holds it.
Streaming output goes through `tandem.text.detokenizer`.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import tokenizers

from tandem.core.errors import InvalidArgument, ModelError
from tandem.text.chat_template import ChatTemplate
from tandem.text.model_files import ModelTextFiles, integer_of, read_model_text_files, token_ids_of, token_text_of
from tandem.text.pieces import Pieces
from tandem.text.utf8 import decode_utf8, require_encodable

__all__ = ["Tokenizer", "decode_utf8"]

_MAX_CONTEXT_FIELDS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")


class Tokenizer:
    """Encodes and decodes like ``transformers.AutoTokenizer`` on the same folder. Safe to share between threads.

    Attributes:
        vocab_size: number of rows of the model's embedding (config.json), which bounds every token id; without a
            config.json the tokenizer's own size.
        tokenizer_vocab_size: one more than the largest id the tokenizer can produce; may be smaller than
            ``vocab_size`` (padded embeddings).
        eos_token_ids: ids that end an answer, ascending: those of generation_config.json (else config.json), and the
            tokenizer's own end token, since fine-tuned models often change only one of the two places.
        special_token_ids: ids left out of decoded text.
        max_context_tokens: longest context of the model, None if no file names one.
        digest: SHA-256 of tokenizer.json, hexadecimal.
        chat_template: the model's own template, None if it has none.
    """

    def __init__(self, files: ModelTextFiles) -> None:
        """Build from files already read; `Tokenizer.load` is the usual way. Raises ModelError."""
        path = files.folder / "tokenizer.json"
        self.backend = _parse(files.tokenizer_json, path)
        added = self.backend.get_added_tokens_decoder()
        self.special_token_ids = frozenset(i for i, token in added.items() if token.special)
        self.tokenizer_vocab_size = max(self.backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        if self.tokenizer_vocab_size == 0:
            raise ModelError(f"{path}: the vocabulary is empty", remedy="use the tokenizer.json of a real model")
        self.vocab_size = integer_of(files.config, "vocab_size") or self.tokenizer_vocab_size
        self.max_context_tokens = integer_of(files.config, *_MAX_CONTEXT_FIELDS) or integer_of(
            files.tokenizer_config, "model_max_length"
        )
        self.special_tokens = _named_special_tokens(files.tokenizer_config)
        self.eos_token_ids = self._find_eos(files)
        self.digest = files.tokenizer_digest
        self.chat_template = (
            ChatTemplate(files.chat_template, dict(self.special_tokens)) if files.chat_template is not None else None
        )

    @classmethod
    def load(cls, model_folder: Path) -> "Tokenizer":
        """Read a prepared model folder. Raises ModelError naming the file and what to do."""
        return cls(read_model_text_files(model_folder))

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of ``text``.

        ``add_special_tokens`` applies the tokenizer's post-processor (a begin token, for example). A rendered chat
        already holds its control tokens: encode it with ``add_special_tokens=False``.

        Raises:
            InvalidArgument: ``text`` holds a lone surrogate.
        """
        require_encodable(text, "prompt.text")
        return self.backend.encode(text, add_special_tokens=add_special_tokens).ids

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of ``token_ids``; ids that name no token add nothing.

        Raises:
            InvalidArgument: an id is negative or beyond the model's vocabulary.
        """
        bound = max(self.vocab_size, self.tokenizer_vocab_size)
        for token_id in token_ids:
            if not 0 <= token_id < bound:
                raise InvalidArgument(
                    "token_ids", f"holds the id {token_id}", remedy=f"ids of this model go from 0 to {bound - 1}"
                )
        return self.backend.decode(token_ids, skip_special_tokens=skip_special_tokens)

    @cached_property
    def pieces(self) -> Pieces:
        """What the detokenisers of this tokenizer share: how each token contributes to the text."""
        return Pieces(self.backend)

    def _find_eos(self, files: ModelTextFiles) -> tuple[int, ...]:
        found = set(
            token_ids_of(files.generation_config, "eos_token_id", files.folder / "generation_config.json")
            or token_ids_of(files.config, "eos_token_id", files.folder / "config.json")
        )
        text = self.special_tokens.get("eos_token")
        own = self.backend.token_to_id(text) if text is not None else None
        if own is not None:
            found.add(own)
        return tuple(sorted(found))


def _parse(source: str, path: Path) -> tokenizers.Tokenizer:
    try:
        backend = tokenizers.Tokenizer.from_str(source)
    # The Rust library raises plain Exception for every kind of bad file.
    except Exception as error:  # noqa: BLE001
        raise ModelError(
            f"{path}: the tokenizers library can't read it: {error}",
            remedy="save the tokenizer again with a current transformers, or update the tokenizers package",
        ) from None
    # Saved from training; a server must see the whole prompt and nothing but the prompt.
    backend.no_truncation()
    backend.no_padding()
    return backend


def _named_special_tokens(tokenizer_config: Mapping[str, object]) -> Mapping[str, str]:
    """``bos_token``, ``eos_token`` and so on, as chat templates name them."""
    found = {name: token_text_of(value) for name, value in tokenizer_config.items() if name.endswith("_token")}
    return {name: text for name, text in found.items() if text is not None}
