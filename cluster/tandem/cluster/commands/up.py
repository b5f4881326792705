"""`tandem up`: start what a file describes, stay until it is ended."""

import asyncio
from pathlib import Path

from tandem.cluster.commands.terminal import open_terminal
from tandem.cluster.config.model import ClusterConfig
from tandem.cluster.session import live_cluster
from tandem.core.config.yaml_file import load_yaml_config
from tandem.core.environment import read_environment
from tandem.core.log import configure_logging


def run_up(file: Path, *, insecure: bool) -> None:
    """Run the cluster to its end. Raises TandemError, or Interrupted when it was ended before it was up."""
    config = load_yaml_config(file, ClusterConfig)
    asyncio.run(_up(allow_insecure(config) if insecure else config))


def allow_insecure(config: ClusterConfig) -> ClusterConfig:
    """Return the configuration with plain text and missing keys allowed everywhere."""
    return config.model_copy(
        update={
            "router": config.router.model_copy(update={"insecure": True}),
            "workers": config.workers.model_copy(update={"insecure": True}),
        }
    )


async def _up(config: ClusterConfig) -> None:
    environment = read_environment()
    terminal = open_terminal(environment)
    progress = terminal.progress()
    configure_logging(level=config.observability.log_level, style=config.observability.log_style)
    try:
        async with live_cluster(config, environment=environment, progress=progress) as cluster:
            state = cluster.state
            terminal.note(f"{state.name} serves {state.model} on {state.public_address}; logs in {state.log_folder}")
            await cluster.watch()
    finally:
        progress.stop()
