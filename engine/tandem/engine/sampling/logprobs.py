"""Log-probabilities of the chosen token and of the likeliest ones: log-softmax in fp32, before temperature."""

from collections.abc import Sequence

import torch

from tandem.core.types import PositionLogprobs, TokenLogprob


def _best(row: torch.Tensor, values: list[float], token_ids: list[int], num_wanted: int) -> tuple[TokenLogprob, ...]:
    """Order candidates by log-probability, equal ones by token id; top-k alone promises nothing about equal ones."""
    if num_wanted == 0:
        return ()
    lowest = values[num_wanted - 1]
    candidates = list(zip(values, token_ids, strict=True))
    if values[-1] == lowest:  # ties may reach past the candidates
        level = torch.nonzero(row == lowest).squeeze(1)[:num_wanted].tolist()
        candidates = [pair for pair in candidates if pair[0] > lowest] + [(lowest, token_id) for token_id in level]
    candidates.sort(key=lambda pair: (-pair[0], pair[1]))
    return tuple(TokenLogprob(token_id=token_id, logprob=value) for value, token_id in candidates[:num_wanted])


def position_logprobs(logits: torch.Tensor, chosen: Sequence[int], num_wanted: Sequence[int]) -> list[PositionLogprobs]:
    """Return each row's chosen token and its ``num_wanted`` likeliest ones, from fp32 ``logits`` [R, vocab]."""
    table = torch.log_softmax(logits, dim=1)
    picked = table.gather(1, torch.tensor(chosen, dtype=torch.int64, device=table.device).unsqueeze(1))
    # One candidate more than wanted: it shows whether the last wanted one is tied with others.
    best = table.topk(min(max(num_wanted) + 1, table.shape[1]), dim=1)
    values, token_ids = best.values.tolist(), best.indices.tolist()
    return [
        PositionLogprobs(
            chosen=TokenLogprob(token_id=token_id, logprob=logprob),
            top=_best(table[row], values[row][: wanted + 1], token_ids[row][: wanted + 1], wanted),
        )
        for row, (token_id, logprob, wanted) in enumerate(
            zip(chosen, picked.squeeze(1).tolist(), num_wanted, strict=True)
        )
    ]
