"""Entry point of ``python -m tandem.chaos.trace``."""

import sys

from tandem.chaos.trace.app import main

if __name__ == "__main__":
    sys.exit(main())
