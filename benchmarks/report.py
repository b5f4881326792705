"""What every benchmark prints and saves: progress on stderr, one JSON object as the last line of stdout."""

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of the common options, for a benchmark that adds its own."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n", 1)[0])
    parser.add_argument("--json", action="store_true", help="print nothing but the result on stdout")
    parser.add_argument("--output", type=Path, help="also write the result, with the machine's facts, to this file")
    return parser


def parse(description: str | None, *extra: str) -> argparse.Namespace:
    """Return the common options, plus one flag per name in ``extra``."""
    arguments = parser(description)
    for name in extra:
        arguments.add_argument(f"--{name}", action="store_true")
    return arguments.parse_args()


def machine_facts() -> dict[str, Any]:
    """Return what a reader needs to judge a figure."""
    cpu = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    packages = ("torch", "transformers", "grpcio", "protobuf", "ray")
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def say(text: str) -> None:
    """Tell a person how far it is."""
    print(text, file=sys.stderr, flush=True)


def save(path: Path, result: dict[str, Any], *, method: str, details: dict[str, Any]) -> None:
    """Write the result, with method, details and the machine's facts."""
    saved = {"result": result, "method": method, "details": details, "machine": machine_facts()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def finish(options: argparse.Namespace, result: dict[str, Any], *, method: str, details: dict[str, Any]) -> None:
    """Print the result; with ``--output`` save it with method, details and the machine's facts."""
    if options.output is not None:
        save(options.output, result, method=method, details=details)
    if not options.json:
        print(json.dumps(details, indent=2, sort_keys=True))
    print(json.dumps(result))
