"""The programs that run as processes: worker, router, embedded registry."""
