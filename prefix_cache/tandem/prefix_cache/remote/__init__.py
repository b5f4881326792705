"""Cached blocks in Redis, the slowest tier. A hint like all in Redis: nothing waits for it, nothing trusts it."""
