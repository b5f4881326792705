"""The flattened batch of one forward pass: the contract between scheduler, model and attention backends."""

from dataclasses import dataclass

import torch

from tandem.engine.sequence import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardBatch:
    """T tokens of S sequences, laid end to end; prefill chunks and decode rows may be mixed.

    Sequence ``s`` owns rows ``query_starts[s] : query_starts[s+1]``; its KV holds ``context_lens[s]`` tokens once this
    pass's own tokens are written (so the row ``r`` of sequence ``s`` attends to ``positions[r] + 1`` tokens).
    """

    token_ids: torch.Tensor  # [T] int64
    positions: torch.Tensor  # [T] int64
    slots: torch.Tensor  # [T] int64: block_id * block_size + offset, where the token's K and V are written
    query_starts: torch.Tensor  # [S + 1] int32
    context_lens: torch.Tensor  # [S] int32
    block_tables: torch.Tensor  # [S, max_blocks] int32, padded with 0
    logit_rows: torch.Tensor  # [R] int64: rows of T whose logits are wanted
    # The same numbers on the host, so that CPU code never calls .tolist() in a layer.
    query_lens_list: tuple[int, ...]
    context_lens_list: tuple[int, ...]
    block_tables_list: tuple[tuple[int, ...], ...]
    # Whose rows these are; None where nobody asked for them (a profile). A model that computes by numbers never looks.
    owners: tuple[Sequence | None, ...] = ()

    @property
    def num_tokens(self) -> int:
        """T."""
        return int(self.token_ids.shape[0])

    @property
    def num_sequences(self) -> int:
        """S."""
        return len(self.query_lens_list)
