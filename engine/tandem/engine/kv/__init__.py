"""The paged KV cache: the tensor, and the pure table of who owns which block."""
