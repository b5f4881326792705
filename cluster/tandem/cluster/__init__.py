"""Composition root: the only Ray code, the `tandem` command, and everything that starts and stops processes."""
