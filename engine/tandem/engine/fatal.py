"""Which errors of a forward pass leave the process in no state to go on. No I/O but one question to the device."""

from typing import Final

import torch

_SAID_BY_BROKEN_DEVICES: Final = (
    "out of memory",
    "can't allocate memory",
    "CUDA error",
    "CUDA driver error",
    "Triton Error [CUDA]",
    "CUBLAS_STATUS",
    "CUDNN_STATUS",
    "HIP error",
)


def ends_the_process(error: Exception, device: torch.device) -> bool:
    """Tell whether nothing computed after ``error`` can be trusted: memory ran out, or the device itself failed.

    A device reports errors late, at whatever call comes next, so a GPU is asked whether it still works.
    """
    if isinstance(error, torch.OutOfMemoryError | torch.AcceleratorError | MemoryError):
        return True
    # Older kernels and libraries raise plain RuntimeErrors, which only their text tells apart.
    if isinstance(error, RuntimeError) and any(text in str(error) for text in _SAID_BY_BROKEN_DEVICES):
        return True
    return device.type == "cuda" and not _still_works(device)


def _still_works(device: torch.device) -> bool:
    try:
        torch.cuda.synchronize(device)
    except Exception:  # noqa: BLE001  whatever it raises: it was asked for a sign of life and gave none
        return False
    return True
