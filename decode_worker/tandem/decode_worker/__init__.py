"""The decode role: takes over a prompt's KV (or computes it itself) and streams the answer."""
