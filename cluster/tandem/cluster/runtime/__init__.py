"""Who starts, watches and stops workers: plain subprocesses here, or Ray."""
