"""Pure state machines of a hand-over: no I/O, no clock, no threads."""
