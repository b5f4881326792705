"""The oracle of every attention backend: one query row at a time, in float64. For tests and benchmarks only."""

import torch

from tandem.engine.batch import ForwardBatch
from tandem.engine.spec import LayerSpec


def write_kv(
    layer_kv: torch.Tensor, key: torch.Tensor, value: torch.Tensor, batch: ForwardBatch, block_size: int
) -> None:
    """Write key/value [T, num_kv_heads, head_dim] into their slots of one layer's pool view.

    ``layer_kv`` is ``KvPool.layer(i)``: [num_blocks, 2, block_size, num_kv_heads, head_dim].
    """
    for row, slot in enumerate(batch.slots.tolist()):
        block, offset = divmod(slot, block_size)
        layer_kv[block, 0, offset] = key[row].to(layer_kv.dtype)
        layer_kv[block, 1, offset] = value[row].to(layer_kv.dtype)


def reference_attention(
    layer: LayerSpec, query: torch.Tensor, layer_kv: torch.Tensor, batch: ForwardBatch, block_size: int
) -> torch.Tensor:
    """Attend with query [T, num_heads, head_dim] over KV already written; return the same shape and dtype.

    For a row at position p with a window w: softmax over j in (p - w, p] of softcap(scale · q·k_j), applied to v_j.
    """
    result = torch.empty_like(query)
    group = layer.num_heads // layer.num_kv_heads
    row = 0
    for sequence, query_len in enumerate(batch.query_lens_list):
        table = batch.block_tables_list[sequence]
        for _ in range(query_len):
            position = int(batch.positions[row])
            first = 0 if layer.window_tokens is None else max(0, position - layer.window_tokens + 1)
            tokens = range(first, position + 1)
            blocks = torch.tensor([table[t // block_size] for t in tokens], device=query.device)
            offsets = torch.tensor([t % block_size for t in tokens], device=query.device)
            keys = layer_kv[blocks, 0, offsets].double()  # [tokens, num_kv_heads, head_dim]
            values = layer_kv[blocks, 1, offsets].double()
            for head in range(layer.num_heads):
                scores = keys[:, head // group] @ query[row, head].double() * layer.scale
                if layer.softcap is not None:
                    scores = layer.softcap * torch.tanh(scores / layer.softcap)
                result[row, head] = (torch.softmax(scores, dim=0) @ values[:, head // group]).to(query.dtype)
            row += 1
    return result
