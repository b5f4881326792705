"""A Ray of several nodes on loopback, each `ray start` as on a machine of its own; ended by pid, never by name."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from tests.fakes.redis_server import free_port

_OBJECT_STORE_BYTES = 80 << 20
_START_S = 60.0


class RayNodes:
    """A head and nodes, with a folder, a token and ports of their own. Use as a context manager; nothing of it is left.

    With ``redis`` (host:port) the head keeps its state there. ``has_token`` is False for a driver in the process of the
    tests, where Ray keeps the token that it saw first.
    """

    def __init__(self, *, redis: str | None = None, has_token: bool = True) -> None:
        self._redis = redis
        self._has_token = has_token
        self._port = free_port()
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}
        self._folders: dict[str, Path] = {}
        self._num_started = 0
        self._folder = Path()
        self.variables: dict[str, str] = {}

    @property
    def address(self) -> str:
        """Of the head: the same for each of its lives, as a service's name is."""
        return f"127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="rn-"))  # short: it holds unix sockets
        self.variables = {
            "OMP_NUM_THREADS": "1",
            "RAY_prestart_worker_first_driver": "0",  # ours have variables of their own: those would idle
        }
        if self._has_token:
            token = self._folder / "token"
            token.touch(mode=0o600)
            token.write_text(os.urandom(32).hex(), encoding="utf-8")
            self.variables |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in list(self._nodes):
            self.kill(name)
        shutil.rmtree(self._folder, ignore_errors=True)

    def start_head(self, *, num_cpus: int = 0) -> None:
        """Start one, on a disk of its own; returns at once."""
        store = {} if self._redis is None else {"RAY_REDIS_ADDRESS": self._redis}
        self._start(
            "head",
            *("--head", f"--port={self._port}", f"--ray-client-server-port={free_port()}", "--no-monitor"),
            *("--include-dashboard=false", f"--num-cpus={num_cpus}"),
            variables=store,
        )

    def start_node(self, name: str, *, num_cpus: int, resources: str = "{}") -> None:
        """Start a node; returns at once."""
        self._start(name, f"--address={self.address}", f"--num-cpus={num_cpus}", f"--resources={resources}")

    def wait_up(self, name: str) -> None:
        """Wait until ``ray start`` says that the node runs."""
        end_s = time.monotonic() + _START_S
        while "Ray runtime started" not in self.log(name):
            assert self._nodes[name].poll() is None, self.log(name)
            assert time.monotonic() < end_s, f"{name} does not start: {self.log(name)}"
            time.sleep(0.05)

    def log(self, name: str) -> str:
        """What its ``ray start`` wrote, in the newest life."""
        return (self._folder / f"{name}.log").read_text(encoding="utf-8")

    def folder(self, name: str) -> Path:
        """Ray's own folder there."""
        return self._folders[name]

    def node_id(self, name: str) -> str:
        """By which Ray knows it."""
        words = [word for process in self.processes(name) if process.name() == "raylet" for word in process.cmdline()]
        return next(word.partition("=")[2] for word in words if word.startswith("--node_id="))

    def is_running(self, name: str) -> bool:
        """Whether it has not ended by itself."""
        return self._nodes[name].poll() is None

    def processes(self, name: str) -> list[psutil.Process]:
        """Everything below its ``ray start``."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self._nodes[name].pid).children(recursive=True)
        return []

    def kill(self, name: str) -> None:
        """End every process of a node at once, as when its machine is gone."""
        below = self.processes(name)
        root = self._nodes.pop(name)
        root.kill()
        for process in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        root.wait(timeout=20.0)

    def _start(self, name: str, *words: str, variables: Mapping[str, str] | None = None) -> None:
        self._num_started += 1
        self._folders[name] = self._folder / str(self._num_started)
        command = [
            sys.executable,
            *("-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"),
            *("--node-ip-address=127.0.0.1", f"--temp-dir={self._folders[name]}"),
            *("--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"),
            "--include-log-monitor=false",
            f"--object-store-memory={_OBJECT_STORE_BYTES}",
            *words,
        ]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        with (self._folder / f"{name}.log").open("wb") as log:
            self._nodes[name] = subprocess.Popen(
                command,
                env={**environment, **self.variables, **(variables or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
