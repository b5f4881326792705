"""A tiny model over a real pool, runner and torch attention, driven by hand as the engine's step loop would."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tandem.core.prepared_model import PreparedModel, write_manifest
from tandem.engine.attention.backend import AttentionBackend
from tandem.engine.attention.torch_backend import TorchAttentionBackend
from tandem.engine.kv.pool import KvPool
from tandem.engine.loading.model_loader import DTYPES, check_supported, load_model, read_model_spec
from tandem.engine.models.model import LoadedModel, PathChoice
from tandem.engine.runner import ModelRunner, RunRow, build_batch
from tests.fakes.tiny_models import make_tiny_model
from tests.fakes.tiny_tokenizer import TURN_END_ID


def prepare_tiny(architecture: str, folder: Path, **overrides: object) -> PreparedModel:
    """Make a tiny model and its manifest, as preparation would (its own conversion is tested elsewhere)."""
    make_tiny_model(architecture, folder, **overrides)  # type: ignore[arg-type]
    facts = check_supported(folder)
    model = PreparedModel(
        folder=folder,
        name=f"tiny-{architecture}",
        digest="00" * 32,
        source=str(folder),
        dtype="float32",
        architecture=architecture,
        vocab_size=facts.vocab_size,
        max_context_tokens=facts.max_context_tokens,
        eos_token_ids=(TURN_END_ID,),
        weights_bytes=(folder / "model.safetensors").stat().st_size,
    )
    write_manifest(model)
    return model


@dataclass(frozen=True, slots=True, kw_only=True)
class PagedModel:
    """A loaded model and its pool."""

    model: LoadedModel
    pool: KvPool
    runner: ModelRunner

    def forward(self, rows: Sequence[RunRow]) -> torch.Tensor:
        """Run rows as one batch; return float32 logits."""
        return self.runner.forward(build_batch(rows, block_size=self.pool.block_size))

    def prefill(self, tokens: Sequence[int], blocks: Sequence[int], chunks: Iterable[int]) -> torch.Tensor:
        """Prefill in chunks of these sizes, the last one repeated to the end; return the logits of every token."""
        sizes = iter(chunks)
        size = 0
        position = 0
        logits = []
        while position < len(tokens):
            size = next(sizes, size)
            part = tokens[position : position + size]
            row = RunRow(token_ids=part, start_position=position, block_ids=blocks, num_logits=len(part))
            logits.append(self.forward([row]))
            position += len(part)
        return torch.cat(logits)

    def greedy(
        self, prompt: Sequence[int], blocks: Sequence[int], *, num_tokens: int, chunks: Iterable[int] = (512,)
    ) -> list[int]:
        """Generate greedily, ignoring end-of-sequence tokens."""
        tokens = [int(self.prefill(prompt, blocks, chunks)[-1].argmax())]
        while len(tokens) < num_tokens:
            position = len(prompt) + len(tokens) - 1
            row = RunRow(token_ids=tokens[-1:], start_position=position, block_ids=blocks, num_logits=1)
            tokens.append(int(self.forward([row])[0].argmax()))
        return tokens


def load_paged(
    prepared: PreparedModel,
    *,
    path: PathChoice = "auto",
    block_size: int = 16,
    num_blocks: int = 64,
    dtype: str = "float32",
    backend: Callable[[KvPool], AttentionBackend] = TorchAttentionBackend,
) -> PagedModel:
    """Load a prepared model over a fresh pool."""
    spec = read_model_spec(prepared, dtype=dtype, path=path)
    pool = KvPool(spec, num_blocks=num_blocks, block_size=block_size, device="cpu", dtype=DTYPES[dtype])
    model = load_model(prepared, device="cpu", attention=backend(pool), dtype=dtype, path=path)
    return PagedModel(model=model, pool=pool, runner=ModelRunner(model, pool))
