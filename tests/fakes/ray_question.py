"""Asks a Ray, as a driver that ends at once: which session it is, which nodes live, how the controller is.

Arguments: address, folder of the node's Ray, namespace. The answer is one JSON object on stdout.
"""

import json
import logging
import sys
from typing import Any

import ray

from tandem.cluster.runtime.ray_controller import ACTOR_NAME

_ANSWER_S = 20.0


def main(address: str, folder: str, namespace: str) -> None:
    """Ask, and print the answer."""
    ray.init(address=address, namespace=namespace, _temp_dir=folder, log_to_driver=False, logging_level=logging.ERROR)
    node: Any = ray._private.worker.global_worker.node
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    controller: Any = ray.get(ray.get_actor(ACTOR_NAME).ping.remote(), timeout=_ANSWER_S)
    answer = {
        "session": node.session_name,
        "nodes": sorted(each["NodeID"] for each in nodes if each["Alive"]),
        "controller": controller,
    }
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:4])
