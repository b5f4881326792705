"""After which errors the process has to end, and after which the engine goes on."""

import pytest
import torch

from tandem.engine.fatal import ends_the_process

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("device"),
        torch.AcceleratorError("lost"),
        MemoryError(),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("Triton Error [CUDA]: device kernel image is invalid"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"),
    ],
    ids=lambda error: str(error)[:24],
)
def test_memory_and_device_errors_end_it(error: Exception) -> None:
    assert ends_the_process(error, CPU)


@pytest.mark.parametrize("error", [RuntimeError("shapes do not fit"), ValueError("CUDA error"), KeyError("x")])
def test_errors_of_one_request_do_not(error: Exception) -> None:
    assert not ends_the_process(error, CPU)


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_gpu_is_asked_whether_it_still_works(is_lost: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its errors come late: what was raised need not say so."""

    def synchronize(device: torch.device) -> None:
        if is_lost:
            raise torch.AcceleratorError("lost")

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    assert ends_the_process(KeyError("x"), torch.device("cuda:0")) == is_lost
