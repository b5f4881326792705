"""Real clusters for benchmarks: the built-in model, real processes on this machine, nothing left behind."""

import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from tandem.cluster.config.model import ClusterConfig
from tandem.cluster.progress import SilentProgress
from tandem.cluster.runtime.local import LocalRuntime
from tandem.cluster.supervisor import Supervisor
from tandem.core.environment import read_environment
from tandem.core.prepared_model import PreparedModel
from tandem.engine.loading import progress as loading
from tandem.engine.loading.prepare import prepare_model

BUILTIN = "builtin:smollm2"


def prepare_builtin() -> PreparedModel:
    """Return the real model, converting it the first time."""
    return prepare_model(
        BUILTIN, cache_folder=read_environment().cache_folder, dtype="float32", progress=loading.SilentProgress()
    )


def cluster_config(**sections: Any) -> ClusterConfig:
    """Return the configuration of a small cluster on free ports; ``sections`` replace or extend sections."""
    values: dict[str, Any] = {
        "model": {"source": BUILTIN},
        "router": {"port": 0},
        "engine": {"kv_memory_bytes": "1GiB"},
        "observability": {"log_level": "warning"},
    }
    for name, section in sections.items():
        values[name] = values.get(name, {}) | section
    return ClusterConfig.model_validate(values)


@contextlib.asynccontextmanager
async def running_cluster(config: ClusterConfig, model: PreparedModel) -> AsyncIterator[str]:
    """Start router and workers as real processes; yield the public address; stop all of it."""
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as folder:
        supervisor = Supervisor(
            config,
            model=model,
            runtime=LocalRuntime(log_folder=Path(folder)),
            log_folder=Path(folder),
            progress=SilentProgress(),
        )
        running = await supervisor.start()
        try:
            yield running.public_address
        finally:
            await supervisor.stop(grace_s=10.0)
