"""Compile the kernels for real devices without one: prints one JSON line per kernel. A program, run by test_compile."""

import json
import sys
from collections.abc import Mapping
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tandem.kernels import paged_decode, paged_prefill, write_kv
from tandem.kernels.tiles import COMPILE_OPTIONS, decode_tiles, prefill_tiles

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SCRATCH = ("maximum_ptr", "sum_ptr", "partial_ptr")
ELEMENTS = ("query_ptr", "cache_ptr", "output_ptr", "key_ptr", "value_ptr")


def _type_of(name: str, element: str) -> str:
    if name in SCRATCH:
        return "*fp32"
    if name in ELEMENTS:
        return f"*{element}"
    if name == "slots_ptr":
        return "*i64"
    if name.endswith("_ptr"):
        return "*i32"
    return "fp32" if name in ("scale", "softcap") else "i32"


def compile_one(
    kernel: Any, element: str, constants: Mapping[str, int | bool], options: Mapping[str, int | bool], capability: int
) -> None:
    """Compile down to machine code and print what the device would need."""
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else _type_of(name, element) for name in names}
    aligned = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(names)
        if name.endswith("_ptr") or ("_stride_" in name and name not in constants)
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=dict(constants), attrs=aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=dict(options))
    facts = {
        "kernel": kernel.__name__,
        "dtype": element,
        "capability": capability,
        "shared_bytes": compiled.metadata.shared,
        "code_bytes": len(compiled.asm["cubin"]),
    }
    print(json.dumps(facts), flush=True)


def main(capability: int, element: str, head_dim: int) -> None:
    """Compile all kernels for one head and element type."""
    prefill = prefill_tiles(head_dim, DTYPES[element])
    decode = decode_tiles(head_dim, DTYPES[element], 4)
    heads = {"GROUP": 4, "BLOCK_SIZE": 16, "HEAD_DIM": head_dim, "HAS_WINDOW": True, "HAS_SOFTCAP": True}
    splits = {"MIN_SPLIT_TOKENS": 256, "MAX_SPLITS": 64}
    compile_one(
        paged_prefill._paged_prefill_kernel,
        element,
        heads | {"TILE_QUERIES": prefill.queries, "TILE_KEYS": prefill.keys, "TILE_DIM": prefill.dim},
        prefill.launch_options(),
        capability,
    )
    compile_one(
        paged_decode._partial_kernel,
        element,
        heads
        | splits
        | {"NUM_KV_HEADS": 8, "TILE_HEADS": decode.queries, "TILE_KEYS": decode.keys, "TILE_DIM": decode.dim},
        decode.launch_options(),
        capability,
    )
    compile_one(
        paged_decode._combine_kernel,
        element,
        splits | {"NUM_HEADS": 32, "HEAD_DIM": head_dim, "TILE_DIM": decode.dim},
        COMPILE_OPTIONS,
        capability,
    )
    compile_one(
        write_kv._write_kv_kernel,
        element,
        {"BLOCK_SIZE": 16, "NUM_HEADS": 3, "HEAD_DIM": head_dim, "TILE_HEADS": 4, "TILE_DIM": decode.dim},
        COMPILE_OPTIONS,
        capability,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
