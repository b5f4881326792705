"""How each token of one tokenizer contributes to the text: the facts that all its detokenisers share.

Three families of decoders exist in practice, told apart by the decoder saved in tokenizer.json:

``BYTES``  (GPT-2, Llama 3, Qwen, SmolLM)  every token is a byte string, the text is their concatenation read as UTF-8.
``RUNS``   (Llama 2, Mistral, Gemma)       a token is text, or one byte ``<0xE2>``; a *run* of byte tokens is read as a
                                           whole: its UTF-8 text, or one U+FFFD per byte if the run is not UTF-8.
``LOCAL``  (WordLevel, Metaspace, ...)     a token is text that depends on its left neighbour at most.

Zero I/O. Tables fill on demand, so a vocabulary of 256k tokens costs nothing at start.
"""

import json
import re
from enum import Enum
from typing import Final

import tokenizers

REPLACEMENT: Final = "\ufffd"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Family(Enum):
    """How the saved decoder turns tokens into text."""

    BYTES = "bytes"
    RUNS = "runs"
    LOCAL = "local"


class Kind(Enum):
    """What one token is, for the families RUNS and LOCAL."""

    SKIPPED = "skipped"  # a special token, or an id without a token: never part of the text
    BYTE = "byte"
    TEXT = "text"


class Pieces:
    """The shared tables. Filling a table entry twice from two threads is harmless: the value is the same."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self._backend = backend
        added = backend.get_added_tokens_decoder()
        self._special_texts = frozenset(token.content for token in added.values() if token.special)
        chain = _decoder_chain(backend)
        self.family = _family(chain)
        # A byte-level decoder among others can still end in half a character; then text is held by its look.
        self.may_end_inside_character = self.family is not Family.BYTES and "ByteLevel" in chain
        self.bytes_of: dict[int, bytes] = _Bytes(self)
        self.kind_of: dict[int, Kind] = _Kinds(self)
        self.anchor = () if self.family is Family.BYTES else self._find_anchor()

    def text_of(self, token_ids: list[int]) -> str:
        """Decode with the library itself, special tokens left out."""
        return self._backend.decode(token_ids, skip_special_tokens=True)

    def visible(self, token_id: int) -> str | None:
        """The raw token of an id, None if it never shows in the text."""
        token = self._backend.id_to_token(token_id)
        return None if token is None or token in self._special_texts else token

    def _find_anchor(self) -> tuple[int, ...]:
        """A plain token to stand in front of others, so that the decoder does not treat them as the text's start."""
        for token_id in range(self._backend.get_vocab_size(with_added_tokens=True)):
            if self.kind_of[token_id] is not Kind.TEXT:
                continue
            alone = self.text_of([token_id])
            if alone.strip().isalnum() and self.text_of([token_id, token_id]).startswith(alone):
                return (token_id,)
        return ()


class _Bytes(dict[int, bytes]):
    """Byte string of each token of the family BYTES, empty for tokens that are left out of the text."""

    def __init__(self, pieces: Pieces) -> None:
        super().__init__()
        self._pieces = pieces

    def __missing__(self, token_id: int) -> bytes:
        token = self._pieces.visible(token_id)
        value = b"" if token is None else _byte_level_bytes(token)
        self[token_id] = value
        return value


class _Kinds(dict[int, Kind]):
    """Kind of each token of the families RUNS and LOCAL."""

    def __init__(self, pieces: Pieces) -> None:
        super().__init__()
        self._pieces = pieces

    def __missing__(self, token_id: int) -> Kind:
        token = self._pieces.visible(token_id)
        if token is None:
            kind = Kind.SKIPPED
        elif self._pieces.family is Family.RUNS and _BYTE_TOKEN.fullmatch(token):
            kind = Kind.BYTE
        else:
            kind = Kind.TEXT
        self[token_id] = kind
        return kind


def _byte_level_alphabet() -> dict[str, int]:
    """The characters with which byte-level BPE writes the 256 bytes (GPT-2's table).

    Printable Latin-1 bytes stand for themselves; the other 68 are numbered from U+0100 in ascending order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + index): byte for index, byte in enumerate(hidden)}


_ALPHABET = _byte_level_alphabet()


def _byte_level_bytes(token: str) -> bytes:
    try:
        return bytes([_ALPHABET[character] for character in token])
    except KeyError:
        # An added token outside the alphabet ("a b"): the library takes its own UTF-8 bytes.
        return token.encode("utf-8")


def _decoder_chain(backend: tokenizers.Tokenizer) -> tuple[str, ...]:
    """Type names of the saved decoder's steps, sequences flattened, in order."""
    pending = [json.loads(backend.to_str())["decoder"]]
    names: list[str] = []
    while pending:
        step = pending.pop(0)
        if step is None:
            continue
        if step["type"] == "Sequence":
            pending = [*step["decoders"], *pending]
        elif step["type"] != "Fuse":
            names.append(step["type"])
    return tuple(names)


def _family(chain: tuple[str, ...]) -> Family:
    if chain == ("ByteLevel",):
        return Family.BYTES
    return Family.RUNS if "ByteFallback" in chain else Family.LOCAL
