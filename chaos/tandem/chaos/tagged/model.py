"""The tagged model as a prepared folder: a real tokenizer, a made-up shape, no weights.

The router and the workers read it like any other. Its architecture is ``tagged``, which the real engine refuses.
"""

import hashlib
import json
from enum import IntEnum
from pathlib import Path
from typing import Final

import pydantic
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from tandem.core.config.model import ConfigModel
from tandem.core.errors import ModelError
from tandem.core.prepared_model import WEIGHTS_NAME, PreparedModel, read_prepared_model, write_manifest
from tandem.engine.spec import LayerSpec, ModelSpec

ARCHITECTURE: Final = "tagged"
SHAPE_FILE: Final = "tagged.json"
VOCAB_SIZE: Final = 320
EOS_ID: Final = 2
_WORDS: Final = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")
_TEMPLATE: Final = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class Poison(IntEnum):
    """Tokens of a prompt that make the engine misbehave. The model itself never says one of them."""

    NAN = 314
    """Its KV is NaN in the first layer, so every later logit is NaN."""
    RAISE = 315
    """The forward pass raises: every request of the step fails."""
    EXIT = 316
    """The worker process ends at once, as after a segmentation fault."""
    OUT_OF_MEMORY = 317
    """The forward pass raises torch's out-of-memory error: the worker must end itself."""
    STALL = 318
    """The forward pass stands still for `TaggedCost.stall_s`."""
    LATE = 319
    """The prompt's other poison acts when the third output token is fed, so on the decode worker; not at the prompt."""


class TaggedShape(ConfigModel):
    """Size of the KV. A slot, one token of one layer, is ``2 * num_kv_heads * head_dim * 4`` bytes."""

    num_layers: int = pydantic.Field(default=2, ge=1, le=64)
    """Layers."""
    num_kv_heads: int = pydantic.Field(default=1, ge=1, le=64)
    """KV heads."""
    head_dim: int = pydantic.Field(default=8, ge=2, le=1024, multiple_of=2)
    """Numbers per head; even, so that a side of a slot is whole 64-bit words."""
    max_context_tokens: int = pydantic.Field(default=4096, ge=16)
    """Longest context."""

    def spec(self, digest: str) -> ModelSpec:
        """The shape as the engine knows it."""
        layers = tuple(
            LayerSpec(
                index=i, num_heads=self.num_kv_heads, num_kv_heads=self.num_kv_heads, head_dim=self.head_dim, scale=1.0
            )
            for i in range(self.num_layers)
        )
        return ModelSpec(
            architecture=ARCHITECTURE,
            digest=digest,
            dtype="float32",
            vocab_size=VOCAB_SIZE,
            max_context_tokens=self.max_context_tokens,
            layers=layers,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            rope_digest="none",
            eos_token_ids=(EOS_ID,),
        )


def prepare_tagged(folder: Path, shape: TaggedShape | None = None) -> PreparedModel:
    """Write the model into ``folder`` and return it."""
    shape = shape or TaggedShape()
    folder.mkdir(parents=True, exist_ok=True)
    _build_tokenizer().save(str(folder / "tokenizer.json"))
    _write(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": None,
            "eos_token": _WORDS[EOS_ID],
            "pad_token": _WORDS[3],
            "add_bos_token": False,
            "clean_up_tokenization_spaces": False,
            "model_max_length": shape.max_context_tokens,
            "chat_template": _TEMPLATE,
        },
    )
    _write(
        folder / "config.json",
        {
            "model_type": ARCHITECTURE,
            "vocab_size": VOCAB_SIZE,
            "max_position_embeddings": shape.max_context_tokens,
            "eos_token_id": EOS_ID,
        },
    )
    text = shape.model_dump_json()
    (folder / SHAPE_FILE).write_text(text + "\n", encoding="utf-8")
    (folder / WEIGHTS_NAME).write_bytes(b"")
    write_manifest(
        PreparedModel(
            folder=folder,
            name=ARCHITECTURE,
            digest=hashlib.sha256(text.encode()).hexdigest(),
            source=ARCHITECTURE,
            dtype="float32",
            architecture=ARCHITECTURE,
            vocab_size=VOCAB_SIZE,
            max_context_tokens=shape.max_context_tokens,
            eos_token_ids=(EOS_ID,),
            weights_bytes=0,
        )
    )
    return read_prepared_model(folder)


def read_shape(model: PreparedModel) -> TaggedShape:
    """Return the shape. Raises ModelError for a folder that holds a real model."""
    if model.architecture != ARCHITECTURE:
        raise ModelError(
            f"{model.folder} holds a model of architecture {model.architecture!r}, not {ARCHITECTURE!r}",
            remedy="this program serves the tagged test model only; a real one is served by tandem.cluster",
        )
    return TaggedShape.model_validate_json((model.folder / SHAPE_FILE).read_text(encoding="utf-8"))


def _write(path: Path, fields: dict[str, object]) -> None:
    path.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def _build_tokenizer() -> Tokenizer:
    """Special tokens, all 256 bytes, pairs of common letters, and the poisons as special tokens at the end."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*_WORDS, *alphabet]
    merges = []
    for pair in (left + right for left in "etaoinsr" for right in "ethanorl"):
        if len(names) == min(Poison):
            break
        names.append(pair)
        merges.append((pair[0], pair[1]))
    names += [f"<|{poison.name.lower()}|>" for poison in sorted(Poison)]
    tokenizer = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [*_WORDS, *names[min(Poison) :]]
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    if tokenizer.get_vocab_size() != VOCAB_SIZE:
        raise ModelError(f"the tagged vocabulary has {tokenizer.get_vocab_size()} tokens, not {VOCAB_SIZE}")
    return tokenizer
