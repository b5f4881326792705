"""The controller at work: looks at a cluster, decides, acts. I/O goes through the ports of `live.ports`."""
