"""The kernels compile for real devices, which takes Triton and its assembler but no device.

The interpreter accepts much that the compiler does not; this is what stands between a machine without a GPU and a
kernel that fails on the first one. It runs in another process, because this one interprets.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import triton

PROGRAM = Path(__file__).with_name("compile_kernels.py")
# Shared memory one block of threads may have: 163 KiB on an A100, 99 KiB on consumer cards, 227 KiB on Hopper.
SHARED_BYTES = {80: 163 * 1024, 89: 99 * 1024, 90: 227 * 1024}

needs_assembler = pytest.mark.skipif(
    shutil.which("ptxas") is None
    and not (Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas").exists(),
    reason="needs ptxas, which Triton's wheel for Linux on x86-64 brings",
)


@needs_assembler
@pytest.mark.parametrize(
    ("capability", "element", "head_dim"), [(80, "bf16", 128), (89, "fp32", 256), (90, "bf16", 64), (90, "fp16", 80)]
)
def test_every_kernel_compiles_within_shared_memory(
    capability: int, element: str, head_dim: int, tmp_path: Path
) -> None:
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-W", "error", str(PROGRAM), str(capability), element, str(head_dim)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    facts = [json.loads(line) for line in run.stdout.splitlines()]
    assert [fact["kernel"] for fact in facts] == [
        "_paged_prefill_kernel",
        "_partial_kernel",
        "_combine_kernel",
        "_write_kv_kernel",
    ]
    assert all(fact["code_bytes"] > 0 for fact in facts)
    assert max(fact["shared_bytes"] for fact in facts) <= SHARED_BYTES[capability]
