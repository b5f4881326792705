"""The text side of the served model: what the router reads of a prepared model folder."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tandem.core.errors import ModelError, NotFound
from tandem.core.inference import ModelCard
from tandem.core.limits import ModelLimits
from tandem.text.chat import ChatRenderer
from tandem.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingDefaults:
    """What a request that leaves a field open gets; from the model's generation config."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """Tokenizer, chat template and facts of the one model this router serves."""

    name: str
    digest: str
    tokenizer: Tokenizer
    renderer: ChatRenderer | None
    limits: ModelLimits
    defaults: SamplingDefaults = field(default_factory=SamplingDefaults)

    @classmethod
    def load(cls, folder: Path, *, name: str = "") -> Self:
        """Read ``folder``. Raises ModelError naming the file and what to do."""
        tokenizer = Tokenizer.load(folder)
        if tokenizer.max_context_tokens is None:
            raise ModelError(
                f"{folder / 'config.json'}: names no context length",
                remedy="add max_position_embeddings with the longest context the model was trained for",
            )
        about = _read_object(folder / "tandem.json")
        digest = about.get("digest")
        return cls(
            name=name or folder.name,
            digest=digest if isinstance(digest, str) else tokenizer.digest,
            tokenizer=tokenizer,
            renderer=ChatRenderer(tokenizer.chat_template) if tokenizer.chat_template is not None else None,
            limits=ModelLimits(
                vocab_size=max(tokenizer.vocab_size, tokenizer.tokenizer_vocab_size),
                max_context_tokens=tokenizer.max_context_tokens,
            ),
            defaults=sampling_defaults(_read_object(folder / "generation_config.json")),
        )

    @property
    def card(self) -> ModelCard:
        """What callers may know of the model."""
        return ModelCard(
            name=self.name,
            digest=self.digest,
            max_context_tokens=self.limits.max_context_tokens,
            vocab_size=self.limits.vocab_size,
            has_chat_template=self.renderer is not None,
            eos_token_ids=self.tokenizer.eos_token_ids,
        )

    def require(self, name: str) -> None:
        """Raise NotFound unless ``name`` is this model's, or empty."""
        if name not in ("", self.name):
            shown = name if len(name) <= 64 else name[:64] + "…"
            raise NotFound(
                f"model {shown!r} is not served here; this server serves {self.name!r}",
                reason="MODEL_NOT_FOUND",
                metadata={"served": self.name},
            )


def sampling_defaults(generation_config: Mapping[str, object]) -> SamplingDefaults:
    """Read a Hugging Face generation config; without ``do_sample`` a model's default is greedy."""

    def number(key: str, default: float) -> float:
        value = generation_config.get(key)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else default

    penalty = number("repetition_penalty", 1.0)
    if generation_config.get("do_sample") is not True:
        return SamplingDefaults(repetition_penalty=penalty)
    return SamplingDefaults(
        temperature=number("temperature", 1.0),
        top_k=int(number("top_k", 0)),
        top_p=number("top_p", 1.0),
        min_p=number("min_p", 0.0),
        repetition_penalty=penalty,
    )


def _read_object(path: Path) -> Mapping[str, object]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: can't be read: {error}", remedy="prepare the model again") from error
    return value if isinstance(value, dict) else {}
