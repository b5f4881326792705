"""Makes the runtime that a configuration asks for."""

from pathlib import Path

from tandem.cluster.config.model import ClusterConfig
from tandem.cluster.runtime.base import WorkerRuntime
from tandem.cluster.runtime.local import LocalRuntime
from tandem.cluster.runtime.ray_runtime import RayRuntime


def make_runtime(config: ClusterConfig, *, log_folder: Path) -> WorkerRuntime:
    """Return a runtime that has started nothing yet."""
    if config.runtime.kind == "ray":
        return RayRuntime(config, log_folder=log_folder)
    return LocalRuntime(log_folder=log_folder)
