"""Vocabulary every component shares: types, ids, errors, limits, clock, configuration, the latency model. Zero I/O."""
