"""Runs the `tandem` command as a person would, in a world of its own, and finds every process it leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from tandem.cluster.run_state import RunState, RunStates
from tandem.core.prepared_model import PreparedModel


@dataclass(frozen=True, slots=True)
class Done:
    """A command that ended."""

    status: int
    out: str
    err: str

    def json(self) -> dict[str, Any]:
        """Its output as one JSON object."""
        value: dict[str, Any] = json.loads(self.out)
        return value


class CommandLine:
    """A home folder, and `tandem` in it. Every process started from here carries a mark in its environment."""

    def __init__(self, folder: Path, *, cache: Path | None = None) -> None:
        self.folder = folder
        self.run_folder = folder / "run"
        self.run_folder.mkdir(parents=True)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            "XDG_RUNTIME_DIR": str(self.run_folder),
            "XDG_CACHE_HOME": str(cache or folder / "cache"),
        }

    def run(self, *words: str, stdin: str = "", timeout_s: float = 60.0) -> Done:
        """Run a command to its end."""
        done = subprocess.run(
            [sys.executable, "-m", "tandem.cluster", *words],
            cwd=self.folder,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def start(self, *words: str) -> "subprocess.Popen[str]":
        """Start a command that stays."""
        return subprocess.Popen(
            [sys.executable, "-m", "tandem.cluster", *words],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a Ctrl-C of the test runner must not reach it
        )

    def state(self, name: str) -> RunState | None:
        """The run state of a cluster."""
        return RunStates(self.run_folder / "tandem").find(name)

    def wait_up(self, process: "subprocess.Popen[str]", name: str, *, timeout_s: float = 90.0) -> RunState:
        """Wait until the cluster is published; fail with its words when it ends before."""
        end_s = time.monotonic() + timeout_s
        while time.monotonic() < end_s:
            state = self.state(name)
            if state is not None:
                return state
            assert process.poll() is None, f"ended early:\n{process.communicate()[1]}"
            time.sleep(0.05)
        raise AssertionError("not up in time")

    def end(self, process: "subprocess.Popen[str]", *, number: signal.Signals = signal.SIGTERM) -> Done:
        """Signal a command that stays, and wait for its end."""
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        return Done(process.returncode, out, err)

    def leftovers(self, *, within_s: float = 6.0) -> list[str]:
        """Every process of this world that still runs, waiting a little for them to end."""
        end_s = time.monotonic() + within_s
        while time.monotonic() < end_s and self._marked():
            time.sleep(0.05)
        return self._marked()

    def workers(self, name: str) -> dict[str, dict[str, Any]]:
        """The workers of a cluster as its router sees them, by name."""
        status = self.run("status", "--json", "--name", name)
        assert status.status == 0, status.err
        return {worker["info"]["worker_id"]: worker for worker in status.json()["status"]["workers"]}

    def _marked(self) -> list[str]:
        found = []
        for process in self._processes():
            try:
                command = " ".join(process.cmdline())
            except psutil.Error:
                continue  # it has ended since it was listed
            if command and process.pid != os.getpid():
                found.append(command)
        return found

    def _processes(self) -> Sequence[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                marked = process.environ().get("XDG_RUNTIME_DIR") == str(self.run_folder)
                if marked and process.status() != psutil.STATUS_ZOMBIE and process.cmdline():
                    found.append(process)
            except psutil.Error:
                continue
        return found


def write_config(folder: Path, model: PreparedModel, *, name: str, runtime: str = "local", mode: str = "split") -> Path:
    """Write a cluster.yaml for the tiny model."""
    config = {
        "metadata": {"name": name},
        "model": {"source": str(model.folder)},
        "runtime": {"kind": runtime, "stop_timeout_s": 10},
        "router": {"port": 0, "placement": {"mode": mode}},
        "engine": {"num_blocks": 128, "profile_budget_s": 0},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path
