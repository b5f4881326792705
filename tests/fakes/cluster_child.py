"""Stands for a worker, the router or the registry under a supervisor: small, quick, with planned misbehaviour.

``python -m tests.fakes.cluster_child``. The configuration line is that of the program it stands for; what it does is
written in ``plan.json`` of the configuration's ``model_folder`` (or ``folder``), keyed by the worker's id, ``router``
or ``registry``. Keys of a plan: ``fail`` (report a failure and end), ``die`` (exit status at once), ``silent`` (never
be ready), ``die_after_s`` (end some time after ready), ``ignore_end`` (go on when the lifeline closes), ``noise``
(print lines that are no status), ``alive`` ([prefill, decode] that a router reports), ``delay_s`` (before ready).
Every life appends its pid to ``<who>.pids`` in that folder.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tandem.cluster.processes.failure import report_failure
from tandem.cluster.processes.lifeline import read_config_line, report, watch_lifeline
from tandem.core.errors import ModelError


def _who(config: dict[str, Any]) -> str:
    if "worker_id" in config:
        return str(config["worker_id"])
    return "router" if "router" in config else "registry"


def _plan(config: dict[str, Any], who: str, folder: Path) -> dict[str, Any]:
    path = folder / "plan.json"
    plans: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    plan = plans.get(who, {})
    num_lives = len((folder / f"{who}.pids").read_text(encoding="utf-8").split())
    return plan if num_lives <= int(plan.get("lives", 10**6)) else {}


def main() -> None:
    """Follow the plan."""
    config: dict[str, Any] = json.loads(read_config_line())
    who = _who(config)
    folder = Path(config.get("model_folder") or config["folder"])
    folder.mkdir(exist_ok=True)
    with (folder / f"{who}.pids").open("a", encoding="utf-8") as file:
        file.write(f"{os.getpid()}\n")
    plan = _plan(config, who, folder)
    if "noise" in plan:
        sys.stdout.write("not json\n[1, 2]\n\n")
        sys.stdout.flush()
    if "die" in plan:
        sys.stderr.write("Traceback: things\nValueError: the last words\n")
        sys.exit(int(plan["die"]))
    if "fail" in plan:
        report_failure(ModelError(str(plan["fail"]), remedy="use another model"))
        sys.exit(1)
    ended = threading.Event()
    watch_lifeline(ended.set, last_resort_s=float(plan.get("last_resort_s", 90.0)))
    report("status", detail="loading")
    time.sleep(float(plan.get("delay_s", 0.0)))
    if "silent" not in plan:
        report("ready", public_address="127.0.0.1:1", internal_address="127.0.0.1:2", registry=config.get("registry"))
    if who == "router":
        prefill, decode = plan.get("alive", [1, 1])
        report("workers", prefill=prefill, decode=decode)
    if "die_after_s" in plan:
        ended.wait(float(plan["die_after_s"]))
        sys.exit(3)
    ended.wait()
    if "ignore_end" in plan:
        time.sleep(600)


if __name__ == "__main__":
    main()
