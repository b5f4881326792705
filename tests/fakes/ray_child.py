"""Stands for Ray's driver process: writes what it was given to ``ray.json`` in the log folder, and says it is ready."""

import json
import os
import sys
from pathlib import Path

from tandem.cluster.processes.lifeline import read_config_line, report
from tandem.cluster.programs.config import RayProgramConfig


def main() -> None:
    """Report every worker as ready, wait for the end of the lifeline."""
    config = RayProgramConfig.model_validate_json(read_config_line())
    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    facts = {
        "mode": os.environ["RAY_AUTH_MODE"],
        "token": token.read_text(encoding="utf-8"),
        "token_mode": oct(token.stat().st_mode & 0o777),
        "temp_folder": str(config.temp_folder),
    }
    (config.log_folder / "ray.json").write_text(json.dumps(facts), encoding="utf-8")
    for worker in config.workers:
        report("worker", worker=worker.program.worker_id, pid=1234, running=True, restarts=0, detail="ready")
    report("ready")
    sys.stdin.read()


if __name__ == "__main__":
    main()
