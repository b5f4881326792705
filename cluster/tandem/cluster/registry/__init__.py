"""Where workers announce themselves: Redis, an embedded server, or the router's memory. A hint, never a truth."""
