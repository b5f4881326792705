"""Paged attention with torch operators, for CPU: gather a sequence's blocks of one layer, then dense attention.

Grouped heads are never repeated in memory: the query heads of one kv head are treated as further query rows (decode) or
as a batch dimension of stride zero (prefill). Which block holds what never enters the arithmetic, so results do not
depend on block ids, and its shape does not depend on the batch (see ``torch_plan``). Softmax runs in float32.
"""

import torch
import torch.nn.functional as F

from tandem.engine.attention.torch_plan import MIN_ROWS, DecodeGroup, Plan, PrefillChunk, make_plan
from tandem.engine.batch import ForwardBatch
from tandem.engine.kv.pool import KvPool
from tandem.engine.spec import LayerSpec


class TorchAttentionBackend:
    """Attention backend over one pool. Not thread-safe: the engine thread owns it."""

    def __init__(self, pool: KvPool) -> None:
        num_blocks, num_layers, _, block_size, num_kv_heads, head_dim = pool.data.shape
        self._block_size = block_size
        self._num_layers = num_layers
        self._heads_shape = (num_kv_heads, head_dim)
        # Two flat views of the pool: rows of one token's heads, and rows of one block's keys or values in one layer.
        self._token_rows = pool.data.view(-1, num_kv_heads * head_dim)
        self._block_rows = pool.data.view(num_blocks * num_layers * 2, -1)
        self._scratch = pool.data.new_empty(0)
        self._batch: ForwardBatch | None = None
        self._plans: dict[int | None, Plan] = {}
        self._slot_rows = torch.empty(0, dtype=torch.int64)

    def attend(
        self, layer: LayerSpec, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, batch: ForwardBatch
    ) -> torch.Tensor:
        """See ``AttentionBackend.attend``."""
        if batch is not self._batch:
            self._begin(batch)
        rows = self._slot_rows + layer.index * 2 * self._block_size
        self._token_rows.index_copy_(0, rows, key.flatten(1))
        self._token_rows.index_copy_(0, rows + self._block_size, value.flatten(1))
        plan = self._plans.get(layer.window_tokens)
        if plan is None:
            plan = make_plan(batch, layer.window_tokens, self._block_size, like=query)
            self._plans[layer.window_tokens] = plan
        if plan.only_group is not None:
            return self._decode(layer, query, plan.only_group)
        result = torch.empty_like(query, memory_format=torch.contiguous_format)
        for group in plan.groups:
            picked = query if group.rows is None else query.index_select(0, group.rows)
            attended = self._decode(layer, picked, group)
            result.index_copy_(0, group.rows, attended) if group.rows is not None else result.copy_(attended)
        for chunk in plan.chunks:
            span = slice(chunk.start, chunk.start + chunk.length)
            self._prefill(layer, query[span], chunk, result[span])
        return result

    def _begin(self, batch: ForwardBatch) -> None:
        """Forget the last batch; find the pool rows of the new one's slots in layer 0."""
        self._batch = batch
        self._plans = {}
        blocks = torch.div(batch.slots, self._block_size, rounding_mode="floor")
        self._slot_rows = batch.slots + blocks * (self._block_size * (2 * self._num_layers - 1))

    def _gather(self, layer: LayerSpec, blocks: torch.Tensor) -> torch.Tensor:
        """Copy the keys and values of ``blocks`` [N] in one layer into scratch: [2, N * block_size, kv_heads, dim]."""
        first = blocks * (2 * self._num_layers) + 2 * layer.index
        rows = torch.cat((first, first + 1))
        wide = self._block_rows.shape[1]
        size = rows.shape[0] * wide
        if self._scratch.numel() < size:
            self._scratch = self._block_rows.new_empty(size)
        gathered = self._scratch[:size].view(rows.shape[0], wide)
        torch.index_select(self._block_rows, 0, rows, out=gathered)
        return gathered.view(2, -1, *self._heads_shape)

    def _decode(self, layer: LayerSpec, query: torch.Tensor, group: DecodeGroup) -> torch.Tensor:
        """Attend with query [B, num_heads, head_dim]: the heads of one kv head are rows of one small product."""
        gathered = self._gather(layer, group.blocks)
        context = gathered.view(2, group.size, -1, *self._heads_shape).transpose(2, 3)
        rows = query.view(group.size, layer.num_kv_heads, -1, layer.head_dim)
        num_rows = rows.shape[2]
        if num_rows < MIN_ROWS:
            rows = F.pad(rows, (0, 0, 0, MIN_ROWS - num_rows))
        attended = _dense(layer, rows, context[0], context[1], group.mask)
        return attended[:, :, :num_rows].reshape(query.shape)

    def _prefill(self, layer: LayerSpec, query: torch.Tensor, chunk: PrefillChunk, result: torch.Tensor) -> None:
        """Attend with a chunk's query [m, num_heads, head_dim]; write into ``result``, of the same shape."""
        gathered = self._gather(layer, chunk.blocks)
        kv_heads, group = layer.num_kv_heads, layer.num_heads // layer.num_kv_heads
        keys, values = (each.transpose(0, 1)[:, None].expand(-1, group, -1, -1) for each in gathered)
        shape = (query.shape[0], kv_heads, group, layer.head_dim)
        queries = query.view(shape).permute(1, 2, 0, 3)  # [kv_heads, group, m, head_dim]
        target = result.view(shape).permute(1, 2, 0, 3)
        for tile in chunk.tiles:
            num_rows, seen = tile.last_row - tile.first_row, slice(tile.first_key, tile.last_key)
            rows = queries[:, :, tile.first_row : tile.last_row]
            missing = tile.mask.shape[0] - num_rows
            if missing:
                rows = F.pad(rows, (0, 0, tile.offset, missing - tile.offset))
            attended = _dense(layer, rows, keys[:, :, seen], values[:, :, seen], tile.mask)
            target[:, :, tile.first_row : tile.last_row] = attended[:, :, tile.offset : tile.offset + num_rows]


def _dense(
    layer: LayerSpec, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """softmax(softcap(scale · QKᵀ) + mask)·V for [batch, heads, rows, dim]."""
    if layer.softcap is None:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=layer.scale)
    scores = torch.matmul(query, key.transpose(2, 3)).mul_(layer.scale / layer.softcap).tanh_().mul_(layer.softcap)
    scores += mask
    return torch.matmul(torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype), value)
