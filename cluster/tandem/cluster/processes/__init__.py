"""Subprocesses of ours: started, watched and ended without leaving orphans."""
