"""From demand to workers: what a split would do to every promise, by queueing formulas over the one latency model."""
