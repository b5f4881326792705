"""Our Ray driver beside one node of several on this machine: Ray itself would take the head's, which is near as well.

``TEST_RAY_NODE`` is the folder of the node's Ray.
"""

import functools
import os

import ray

from tandem.cluster.programs import ray_process


def main() -> None:
    """Run the driver, its Ray beside the node."""
    ray.init = functools.partial(ray.init, _temp_dir=os.environ["TEST_RAY_NODE"])
    ray_process.main()
