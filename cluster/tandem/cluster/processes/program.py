"""Starts one of our programs: ``python -P -m tandem.cluster.processes.program MODULE`` imports it and calls ``main()``.

A start is nearly all imports, and what they make stays until the end. The garbage collector would go over it again and
again while it grows, a quarter of a worker's start, and with every full collection between two steps: it is off
meanwhile, and what is there afterwards is left alone for good.
"""

import gc
import importlib
import sys


def main() -> None:
    """Run the module that the command line names, as if it alone had been started."""
    name = sys.argv.pop(1)
    gc.disable()
    module = importlib.import_module(name)
    gc.freeze()
    gc.enable()
    module.main()


if __name__ == "__main__":
    main()
