"""Settings every test process needs."""

import os

# One thread per process: on a small machine OpenMP threads of neighbouring processes fight for the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
