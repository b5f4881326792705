"""The shell both worker roles share: Attach stream, engine thread, heartbeat, load reports."""
