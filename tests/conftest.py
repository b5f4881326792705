"""Settings every test process needs."""

import os

# One thread per process: on a small machine OpenMP threads of neighbouring processes fight for the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Before anything loads triton (transformers does): without a CUDA device our kernels run in its interpreter.
if not os.path.exists("/dev/nvidiactl"):
    os.environ.setdefault("TRITON_INTERPRET", "1")
