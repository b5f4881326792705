"""Merges safetensors shards into one file of one float type, a tensor at a time, and hashes it on the way.

Memory stays at one tensor, whatever the model's size. The file's layout: an 8-byte little-endian length, a JSON header
with every tensor's type, shape and byte range, then the bytes.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from tandem.core.errors import ModelError
from tandem.engine.loading.progress import Progress

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_TYPES = {name: kind for kind, name in _NAMES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    file: Any  # an open safetensors file
    name: str
    shape: tuple[int, ...]
    kind: torch.dtype  # as it will be stored
    num_bytes: int


def merge_weights(files: list[Path], target: Path, dtype: torch.dtype, progress: Progress) -> str:
    """Write all tensors of ``files`` to ``target``, floating ones as ``dtype``; return the sha256 (hex) of the file.

    Raises ModelError for a broken file, a tensor that appears twice, or a type that can't be served.
    """
    digest = hashlib.sha256()
    with ExitStack() as stack:
        entries = list(_entries(files, dtype, stack))
        total = sum(entry.num_bytes for entry in entries)
        with target.open("wb") as output:
            for part in _header(entries):
                digest.update(part)
                output.write(part)
            done = 0
            for entry in entries:
                tensor = entry.file.get_tensor(entry.name).to(entry.kind).contiguous()
                data = tensor.reshape(-1).view(torch.uint8).numpy().data
                digest.update(data)
                output.write(data)
                done += entry.num_bytes
                progress.at("writing the weights", done / max(1, total))
    return digest.hexdigest()


def _entries(files: list[Path], dtype: torch.dtype, stack: ExitStack) -> Iterator[_Entry]:
    seen: set[str] = set()
    for path in files:
        try:
            file: Any = stack.enter_context(safe_open(path, framework="pt", device="cpu"))
        except (OSError, SafetensorError) as error:
            raise ModelError(
                f"{path} is not a readable safetensors file: {error}", remedy="download it again; it may be cut short"
            ) from error
        for name in sorted(file.keys()):
            view = file.get_slice(name)
            kind = _TYPES.get(view.get_dtype())
            if kind is None or name in seen:
                problem = "appears twice" if name in seen else f"has the type {view.get_dtype()}"
                raise ModelError(
                    f"{path}: tensor {name} {problem}", remedy="use an unquantised safetensors revision of the model"
                )
            seen.add(name)
            kind = dtype if kind.is_floating_point else kind
            shape = tuple(view.get_shape())
            count = int(torch.Size(shape).numel())
            yield _Entry(file=file, name=name, shape=shape, kind=kind, num_bytes=count * kind.itemsize)


def _header(entries: list[_Entry]) -> Iterator[bytes]:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for entry in entries:
        end = offset + entry.num_bytes
        header[entry.name] = {"dtype": _NAMES[entry.kind], "shape": entry.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little")
    yield text
