"""The decision log: why each request went where it went, kept for a while and, when wanted, in files."""
