"""What single tokens are, for each decoder family."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tandem.text.pieces import Family, Kind, Pieces
from tests.unit.text.small_tokenizers import EXACT, byte_level, gemma, llama2, metaspace, mixed_chain, word_level


def with_decoder(decoder: decoders.Decoder | None) -> Pieces:
    backend = Tokenizer(models.WordLevel({"a": 0, "<0x41>": 1}, unk_token="a"))
    if decoder is not None:
        backend.decoder = decoder
    return Pieces(backend)


def test_every_byte_has_its_own_character_in_the_byte_alphabet() -> None:
    pieces = Pieces(byte_level())
    single = [value for token_id in range(256) if len(value := pieces.bytes_of[token_id]) == 1]
    assert sorted(single) == [bytes([byte]) for byte in range(256)]


def test_the_alphabet_is_the_library_s() -> None:
    assert len(pre_tokenizers.ByteLevel.alphabet()) == 256
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for text in ("é", " ", "\n", "🙂", "~\x7f\x80\xad"):
        ((piece, _),) = splitter.pre_tokenize_str(text)
        backend = Tokenizer(models.WordLevel({piece: 0}, unk_token=piece))
        backend.decoder = decoders.ByteLevel()
        assert Pieces(backend).bytes_of[0] == text.encode()


def test_special_and_unknown_ids_add_no_bytes() -> None:
    backend = byte_level()
    pieces = Pieces(backend)
    special = backend.token_to_id("<|end|>")
    assert special is not None
    assert pieces.bytes_of[special] == b""
    assert pieces.bytes_of[10**6] == b""


def test_kinds_of_a_byte_fallback_tokenizer() -> None:
    pieces = Pieces(llama2())
    assert pieces.kind_of[1] is Kind.SKIPPED  # <s>
    assert pieces.kind_of[3] is Kind.BYTE  # <0x00>
    assert pieces.kind_of[258] is Kind.BYTE  # <0xFF>
    assert pieces.kind_of[259] is Kind.TEXT
    assert pieces.kind_of[10**6] is Kind.SKIPPED


@pytest.mark.parametrize(
    ("decoder", "family"),
    [
        (None, Family.LOCAL),
        (decoders.ByteLevel(), Family.BYTES),
        (decoders.Sequence([decoders.ByteLevel()]), Family.BYTES),
        (decoders.Sequence([decoders.Sequence([decoders.ByteLevel()]), decoders.Fuse()]), Family.BYTES),
        (decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()]), Family.RUNS),
        (decoders.Metaspace(), Family.LOCAL),
        (decoders.WordPiece(), Family.LOCAL),
        (decoders.Sequence([decoders.Replace("x", "y"), decoders.ByteLevel()]), Family.LOCAL),
    ],
)
def test_family_of_a_saved_decoder(decoder: decoders.Decoder | None, family: Family) -> None:
    assert with_decoder(decoder).family is family


def test_what_looks_like_a_byte_is_text_where_the_decoder_knows_no_bytes() -> None:
    assert with_decoder(decoders.Metaspace()).kind_of[1] is Kind.TEXT
    assert with_decoder(decoders.ByteFallback()).kind_of[1] is Kind.BYTE


@pytest.mark.parametrize("make", [llama2, gemma, metaspace, word_level, mixed_chain])
def test_the_anchor_is_a_plain_token(make: type) -> None:
    pieces = Pieces(make())
    (anchor,) = pieces.anchor
    assert pieces.kind_of[anchor] is Kind.TEXT
    assert pieces.text_of([anchor]).strip().isalnum()


@pytest.mark.parametrize("name", EXACT)
def test_tables_fill_on_demand_only(name: str) -> None:
    pieces = Pieces(EXACT[name]())
    assert len(pieces.bytes_of) == 0
    assert len(pieces.kind_of) < 300
