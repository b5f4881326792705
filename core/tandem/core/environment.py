"""The only module that reads environment variables."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What Tandem takes from the environment; everything else is configuration or an argument."""

    cache_folder: Path  # XDG_CACHE_HOME/tandem
    run_folder: Path  # XDG_RUNTIME_DIR/tandem, else a folder of the user's under the temporary folder
    no_color: bool  # NO_COLOR
    hub_offline: bool  # HF_HUB_OFFLINE
    test_failpoints: Path | None  # TANDEM_TEST_FAILPOINTS: see tandem.core.failpoints


def read_environment() -> Environment:
    """Read the process environment once; pass the result on."""
    home = Path.home()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    failpoints = os.environ.get("TANDEM_TEST_FAILPOINTS")
    run = Path(runtime) / "tandem" if runtime else Path(os.environ.get("TMPDIR", "/tmp")) / f"tandem-{os.getuid()}"
    return Environment(
        cache_folder=cache / "tandem",
        run_folder=run,
        no_color=bool(os.environ.get("NO_COLOR")),
        hub_offline=os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0"),
        test_failpoints=Path(failpoints) if failpoints else None,
    )


def child_environment(*, num_threads: int, offline: bool = True) -> dict[str, str]:
    """Return the environment for a process of ours: this one's, with the thread counts that libraries read at import.

    One thread per process unless asked otherwise: on a shared machine OpenMP threads of neighbours stall each other.
    """
    environment = {**os.environ, **worker_variables(num_threads=num_threads)}
    environment["RAY_USAGE_STATS_ENABLED"] = "0"
    if not offline:
        environment.pop("HF_HUB_OFFLINE", None)
    return environment


def worker_variables(*, num_threads: int) -> dict[str, str]:
    """Return the variables alone that a worker needs, for one that is started on another machine."""
    return {
        "OMP_NUM_THREADS": str(num_threads),
        "MKL_NUM_THREADS": str(num_threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
