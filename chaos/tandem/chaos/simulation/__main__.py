"""`python -m tandem.chaos.simulation`."""

import sys

from tandem.chaos.simulation.app import main

if __name__ == "__main__":
    sys.exit(main())
