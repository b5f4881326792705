"""The `tandem` command: what is typed. What is done lies in `tandem.cluster.commands`."""

from tandem.cluster.cli.app import main

__all__ = ["main"]
