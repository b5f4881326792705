"""A stage for supervised fake programs: plans in, process ids out, and waiting for processes to end."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from tandem.cluster.config.model import ClusterConfig, ModelSection, PoolSection, PoolsSection, RegistrySection
from tandem.core.prepared_model import PreparedModel

CHILD = "tests.fakes.cluster_child"


class Stage:
    """A folder in which fake programs find their plans and leave their process ids."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "model"
        self.folder.mkdir()
        self.logs = folder / "logs"

    def plan(self, **plans: dict[str, Any]) -> None:
        """Say what each program does; ``decode_0`` stands for ``decode-0``."""
        text = json.dumps({name.replace("_", "-"): plan for name, plan in plans.items()})
        (self.folder / "plan.json").write_text(text, encoding="utf-8")

    def pids(self, who: str) -> list[int]:
        """The processes that ``who`` has had, oldest first."""
        path = self.folder / f"{who}.pids"
        return [int(line) for line in path.read_text(encoding="utf-8").split()] if path.exists() else []

    def all_pids(self) -> list[int]:
        """Every process there has been."""
        return [pid for path in self.folder.glob("*.pids") for pid in self.pids(path.stem)]

    @property
    def model(self) -> PreparedModel:
        """A manifest that nobody checks."""
        return PreparedModel(
            folder=self.folder,
            name="fake",
            digest="0" * 64,
            source="test",
            dtype="float32",
            architecture="llama",
            vocab_size=320,
            max_context_tokens=64,
            eos_token_ids=(0,),
            weights_bytes=0,
        )


def fake_cluster(*, prefill: int = 1, decode: int = 1, embedded: bool = False) -> ClusterConfig:
    """A configuration for fake programs."""
    return ClusterConfig(
        model=ModelSection(source="fake"),
        pools=PoolsSection(prefill=PoolSection(replicas=prefill), decode=PoolSection(replicas=decode)),
        registry=RegistrySection(embedded=embedded),
    )


def gone(pids: list[int], *, within_s: float = 5.0) -> bool:
    """Whether every process has ended, waiting a little for it."""
    return wait_for(lambda: not any(_lives(pid) for pid in pids), within_s=within_s)


def wait_for(holds: Callable[[], bool], *, within_s: float = 10.0) -> bool:
    """Wait until ``holds()``, and tell whether it came to that."""
    end_s = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.02)
    return True


def _lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
