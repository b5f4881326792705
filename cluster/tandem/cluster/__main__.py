"""``python -m tandem.cluster`` is the command `tandem`."""

from tandem.cluster.cli import main

if __name__ == "__main__":
    main()
