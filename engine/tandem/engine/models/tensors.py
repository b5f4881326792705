"""Named tensors of a prepared model, read from its safetensors file; every tensor must be taken exactly once."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from tandem.core.errors import ModelError


class TensorFile:
    """Reads tensors by name, converts them to one dtype and device, and accounts for all of them."""

    def __init__(self, path: Path, *, device: str, dtype: torch.dtype) -> None:
        """Raise ModelError when the file is not a readable safetensors file."""
        self._path = path
        self._dtype = dtype
        self._device = device
        try:
            self._file = safe_open(path, framework="pt", device="cpu")
        except (OSError, SafetensorError) as error:
            raise ModelError(
                f"{path} can't be read: {error}", remedy="delete the folder and prepare it again"
            ) from error
        self._left: set[str] = set(self._file.keys())  # type: ignore[no-untyped-call]
        self._names = frozenset(self._left)
        self._missing: list[str] = []

    def has(self, name: str) -> bool:
        """Tell whether the file holds a tensor of this name."""
        return name in self._names

    def take(self, name: str, *shape: int) -> torch.Tensor:
        """Return a tensor of the given shape.

        Raises ModelError when it has another shape. A missing one is noted for ``finish`` and replaced by zeros, so
        that the error can name all missing tensors at once.
        """
        if name not in self._names:
            self._missing.append(name)
            return torch.zeros(shape, dtype=self._dtype, device=self._device)
        self._left.discard(name)
        tensor: torch.Tensor = self._file.get_tensor(name)  # type: ignore[no-untyped-call]
        if tuple(tensor.shape) != shape:
            raise ModelError(
                f"{self._path}: {name} has shape {tuple(tensor.shape)}, its config.json says {shape}",
                remedy="weights and config.json belong to different models: get both again from one source",
            )
        return tensor.to(device=self._device, dtype=self._dtype)

    def ignore(self, name: str) -> None:
        """Leave a tensor aside on purpose."""
        self._left.discard(name)

    def finish(self) -> None:
        """Raise ModelError unless every expected tensor was there and every tensor there was expected."""
        ignorable = {name for name in self._left if name.endswith("rotary_emb.inv_freq")}
        unexpected = sorted(self._left - ignorable)
        if self._missing or unexpected:
            problems = [
                f"{label} {', '.join(names[:5])}{' …' if len(names) > 5 else ''} ({len(names)})"
                for label, names in (("missing", sorted(self._missing)), ("unexpected", unexpected))
                if names
            ]
            raise ModelError(
                f"{self._path}: weights do not fit config.json: {'; '.join(problems)}",
                remedy="the checkpoint is incomplete or of another model: get it again from its source",
            )
