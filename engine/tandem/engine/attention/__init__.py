"""Attention over the paged KV cache: one interface, a torch backend (CPU) and a Triton backend (CUDA)."""
