"""How a worker's KV blocks look in memory, and the fingerprint two workers must share before a byte moves."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Final

from tandem.core.errors import InvalidArgument

from .errors import LayoutMismatch

PROTOCOL_VERSION: Final = 2

_DTYPE_BYTES: Final = {"float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1, "int8": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class KvLayout:
    """Everything that gives the bytes of a KV block their meaning.

    A block is ``[num_layers, 2, block_size, num_kv_heads, head_dim]`` of ``dtype``, contiguous, unless
    ``layout_name`` says otherwise. ``shard_map`` names the slice of heads this process holds of a tensor-parallel
    group.
    """

    model_digest: str
    tokenizer_digest: str
    dtype: str
    num_layers: int
    num_kv_heads: int
    head_dim: int
    block_size: int
    rope_digest: str
    adapter_digest: str = ""
    quantisation: str = "none"
    layout_name: str = "block-layer-kv-token-head-dim"
    shard_map: tuple[str, ...] = ("0/1",)
    protocol_version: int = PROTOCOL_VERSION

    def __post_init__(self) -> None:
        for field in ("num_layers", "num_kv_heads", "head_dim", "block_size"):
            if getattr(self, field) < 1:
                raise InvalidArgument(field, f"{getattr(self, field)} is not a positive count")
        if self.dtype not in _DTYPE_BYTES:
            raise InvalidArgument("dtype", f"{self.dtype!r} is unknown", remedy=f"use one of {sorted(_DTYPE_BYTES)}")

    @property
    def block_bytes(self) -> int:
        """Bytes of one block over all layers, keys and values."""
        elements = self.num_layers * 2 * self.block_size * self.num_kv_heads * self.head_dim
        return elements * _DTYPE_BYTES[self.dtype]

    @property
    def fingerprint(self) -> str:
        """SHA-256 over a canonical encoding (JSON, sorted keys, no spaces) of every field, as hexadecimal digits."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()


def require_same_layout(*, own: str, other: str) -> None:
    """Raise LayoutMismatch unless the two fingerprints are equal."""
    if own != other:
        raise LayoutMismatch(own=own, other=other)
