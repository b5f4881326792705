"""The engine's failpoints: a pass that raises, KV or logits that are not numbers. See `tandem.core.failpoints`."""

import torch

from tandem.core.failpoints import failpoint
from tandem.engine.batch import ForwardBatch
from tandem.engine.kv.pool import KvPool

_NAN = float("nan")


class SpoiledPass:
    """One forward pass as its failpoints see it. A request is marked by a token id of its prompt."""

    def __init__(self, batch: ForwardBatch) -> None:
        self._batch = batch

    def before(self) -> None:
        """Raise, wait or end the process, if a test asked for it."""
        failpoint("engine.step", self._marks)

    def after(self, logits: torch.Tensor, pool: KvPool) -> None:
        """Put NaN where a test asked for it: into the newest token's KV of a layer, or into rows of ``logits``."""
        mark = failpoint("engine.kv", self._marks)
        if mark is not None:
            for index in self._marked(mark):
                slot = int(self._batch.slots[int(self._batch.query_starts[index + 1]) - 1])
                pool.layer(0)[slot // pool.block_size, :, slot % pool.block_size] = _NAN
        mark = failpoint("engine.logits", self._marks)
        if mark is not None:
            sequences = torch.searchsorted(self._batch.query_starts, self._batch.logit_rows.int(), right=True) - 1
            for row, index in enumerate(sequences.tolist()):
                if index in self._marked(mark):
                    logits[row] = _NAN

    def _marks(self) -> set[int]:
        return {token for owner in self._batch.owners if owner is not None for token in owner.prompt}

    def _marked(self, mark: int) -> list[int]:
        owners = self._batch.owners
        return [index for index, owner in enumerate(owners) if owner is not None and mark in owner.prompt]
