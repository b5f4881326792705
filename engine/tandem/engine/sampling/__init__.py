"""Choosing the next token: penalties, filters, a counter-based random number per (seed, child, position)."""
