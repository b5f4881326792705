#!/opt/tandem/bin/python
"""Writes the cluster.yaml that the router pod starts with: the chart's, the pod's address, and what came as Secrets.

usage: compose_config.py CONFIG OUTPUT POD_ADDRESS SECRETS_FOLDER

The ConfigMap must not hold secrets and cannot know a pod's address, and the command reads one file.  So the three are
put together in the pod's temporary folder, readable by its user only.
"""

import os
import sys
from pathlib import Path
from typing import Any

import yaml

KEYS_FILE, REDIS_URL_FILE = Path("auth/keys.yaml"), Path("redis/url")


def compose(config: dict[str, Any], *, pod_address: str, secrets: Path) -> dict[str, Any]:
    """Return ``config`` with the pod's address, the API keys and the Redis URL; files that are missing add nothing."""
    router = {**config["router"], "internal_host": pod_address, "metrics_host": pod_address}
    if (secrets / KEYS_FILE).is_file():
        router["keys"] = yaml.safe_load((secrets / KEYS_FILE).read_text(encoding="utf-8"))
    composed = {**config, "router": router}
    if (secrets / REDIS_URL_FILE).is_file():
        url = (secrets / REDIS_URL_FILE).read_text(encoding="utf-8").strip()
        composed["registry"] = {**config["registry"], "redis_url": url}
    return composed


def main(source: str, output: str, pod_address: str, secrets: str) -> None:
    """Compose and write; the file is made with mode 0600, and an older one replaced."""
    config = yaml.safe_load(Path(source).read_text(encoding="utf-8"))
    composed = compose(config, pod_address=pod_address, secrets=Path(secrets))
    Path(output).unlink(missing_ok=True)
    with open(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        yaml.safe_dump(composed, file, sort_keys=False)


if __name__ == "__main__":
    main(*sys.argv[1:5])
