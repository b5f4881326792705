"""What is known about prefixes: their keys, who holds them, which to give up. No KV bytes, no sockets, no torch."""
