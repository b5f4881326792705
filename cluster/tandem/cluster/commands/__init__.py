"""What the commands of `tandem` do. The command line itself is `tandem.cluster.cli`."""
