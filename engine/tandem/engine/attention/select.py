"""Which attention backend a worker uses: by configuration, or by device."""

from collections.abc import Callable
from typing import Literal

from tandem.core.errors import EnvironmentProblem
from tandem.engine.attention.backend import AttentionBackend
from tandem.engine.attention.torch_backend import TorchAttentionBackend
from tandem.engine.kv.pool import KvPool

AttentionName = Literal["auto", "torch", "triton"]


def select_backend(name: AttentionName, device: str) -> Callable[[KvPool], AttentionBackend]:
    """Return what makes the backend over a pool; ``auto`` is Triton on CUDA and torch everywhere else.

    ``device`` is a torch device such as "cpu" or "cuda:1". Raises EnvironmentProblem if the backend can't run there.
    """
    on_cuda = device.split(":", maxsplit=1)[0] == "cuda"
    if name == "torch" or (name == "auto" and not on_cuda):
        return TorchAttentionBackend
    if not on_cuda:
        raise EnvironmentProblem(
            f"the attention backend 'triton' needs a CUDA device; this worker runs on {device!r}",
            remedy="set the attention backend to 'auto' or 'torch'",
        )
    # Imported only where it is used: Triton is not installed on every platform, and loads slowly.
    try:
        from tandem.engine.attention.triton_backend import TritonAttentionBackend  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise EnvironmentProblem(
            f"the attention backend 'triton' needs the package {error.name!r}, which is not installed",
            remedy="install it, or set the attention backend to 'torch'",
        ) from error
    return TritonAttentionBackend
