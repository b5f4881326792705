"""Where cached blocks go that left the KV pool."""
