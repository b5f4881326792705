"""A model whose KV is content-tagged and whose logits are a hash of the KV it reads, for tests of the engine around it.

The K of a token holds its id, the V its position. A row's logits depend on every (id, position) of its context, read
through the block table: a missing, stale, torn or foreign block changes the tokens that come out.
"""

from collections.abc import Sequence

import numpy as np
import torch

from tandem.core.types import GenerationTask
from tandem.engine.batch import ForwardBatch
from tandem.engine.kv.pool import KvPool
from tandem.engine.sampling.sampler import Sampler, SampleRow
from tandem.engine.spec import LayerSpec, ModelSpec

VOCAB_SIZE = 320
EOS_ID = 2
_MASK = (1 << 64) - 1

FAKE_SPEC = ModelSpec(
    architecture="fake",
    digest="fake",
    dtype="float32",
    vocab_size=VOCAB_SIZE,
    max_context_tokens=1024,
    layers=(LayerSpec(index=0, num_heads=1, num_kv_heads=1, head_dim=1, scale=1.0),),
    num_kv_heads=1,
    head_dim=1,
    rope_digest="none",
    eos_token_ids=(EOS_ID,),
)


def fake_pool(num_blocks: int, block_size: int = 4) -> KvPool:
    """Return a pool of two floats per token."""
    return KvPool(FAKE_SPEC, num_blocks=num_blocks, block_size=block_size, device="cpu", dtype=torch.float32)


def fake_logits(token_ids: Sequence[int], positions: Sequence[int]) -> torch.Tensor:
    """Return the logits after a context; any change of any id or position changes all of them."""
    state = 0x9E3779B97F4A7C15
    for token_id, position in zip(token_ids, positions, strict=True):
        state = ((state ^ (token_id * 1_000_003 + position)) * 0xD6E8FEB86659FD93) & _MASK
        state ^= state >> 32
    values = np.random.Generator(np.random.PCG64(state)).standard_normal(VOCAB_SIZE, dtype=np.float32)
    return torch.from_numpy(values * 3.0)


class FakeRunner:
    """A Runner. ``poison_id`` as last token gives NaN logits; ``failures`` are raised by the next passes, in order."""

    def __init__(self, pool: KvPool) -> None:
        self.spec = FAKE_SPEC
        self.pool = pool
        self.poison_id: int | None = None
        self.failures: list[Exception] = []
        self.num_tokens: list[int] = []  # per pass
        self.num_sequences: list[int] = []

    def forward(self, batch: ForwardBatch) -> torch.Tensor:
        """Write (id, position) of every token, then hash what the block tables show."""
        if self.failures:
            raise self.failures.pop(0)
        self.num_tokens.append(batch.num_tokens)
        self.num_sequences.append(batch.num_sequences)
        flat = self.pool.layer(0)
        blocks, offsets = batch.slots // self.pool.block_size, batch.slots % self.pool.block_size
        flat[blocks, 0, offsets, 0, 0] = batch.token_ids.float()
        flat[blocks, 1, offsets, 0, 0] = batch.positions.float()
        starts = batch.query_starts.tolist()
        rows = []
        for row in batch.logit_rows.tolist():
            index = next(i for i in range(batch.num_sequences) if starts[i] <= row < starts[i + 1])
            rows.append(self._logits(batch.block_tables_list[index], int(batch.positions[row]) + 1))
        return torch.stack(rows) if rows else torch.empty(0, VOCAB_SIZE)

    def _logits(self, block_ids: Sequence[int], num_tokens: int) -> torch.Tensor:
        kv = self.pool.layer(0)[list(block_ids)]  # [blocks, 2, block_size, 1, 1]
        ids = [int(v) for v in kv[:, 0].reshape(-1)[:num_tokens].tolist()]
        positions = [int(v) for v in kv[:, 1].reshape(-1)[:num_tokens].tolist()]
        if self.poison_id is not None and ids[-1] == self.poison_id:
            return torch.full((VOCAB_SIZE,), float("nan"))
        return fake_logits(ids, positions)


def reference_tokens(task: GenerationTask, child: int = 0) -> list[int]:
    """Return what ``child`` must say, from the model's definition alone: no engine, no KV; stop strings ignored."""
    sampler = Sampler()
    output: list[int] = []
    stops = set(task.stop.stop_token_ids) | (set() if task.stop.ignore_eos else {EOS_ID})
    while len(output) < task.stop.max_tokens:
        context = [*task.prompt_token_ids, *output]
        row = SampleRow(
            params=task.sampling,
            child=child,
            position=len(output),
            prompt_token_ids=task.prompt_token_ids,
            output_token_ids=output,
        )
        token = sampler.sample(fake_logits(context, range(len(context)))[None], [row])[0].token_id
        if token is None:
            raise ValueError("the fake model never gives NaN here")
        output.append(token)
        if token in stops:
            break
    return output
