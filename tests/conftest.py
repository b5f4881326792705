"""Settings every test process needs."""

import os

# One thread per process: on a small machine OpenMP threads of neighbouring processes fight for the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Child processes do not look for modules in the working folder; the tests' own programs are found all the same.
os.environ["PYTHONPATH"] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# Before anything loads triton (transformers does): without a CUDA device our kernels run in its interpreter.
if not os.path.exists("/dev/nvidiactl"):
    os.environ.setdefault("TRITON_INTERPRET", "1")

# After the environment: these read it when they are imported.
from hypothesis import settings

# A busy machine must not fail a property: wall time is the test's own time-out's business.
settings.register_profile("tandem", deadline=None)
settings.load_profile("tandem")
