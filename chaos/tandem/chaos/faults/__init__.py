"""Faults that prove that they took effect: on TCP streams and KV frames, on processes, between network namespaces."""
