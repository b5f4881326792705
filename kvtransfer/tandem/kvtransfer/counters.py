"""What happened on the KV links of one worker, as plain numbers."""

import threading
from dataclasses import dataclass, replace

from .stats import TransferStats


@dataclass(slots=True, kw_only=True)
class Counters:
    """Counts since the service started. Refusals count where they were dropped, what was skipped at the commit."""

    num_chunks: int = 0
    num_bytes: int = 0
    num_committed: int = 0
    blocks_skipped: int = 0
    bytes_skipped: int = 0
    num_failed: int = 0
    stale_epoch: int = 0
    stale_generation: int = 0
    stale_source: int = 0
    duplicate_chunk: int = 0
    unknown_transfer: int = 0
    not_granted: int = 0
    out_of_bounds: int = 0
    digest_mismatch: int = 0
    bad_frames: int = 0
    refused_connections: int = 0
    links_lost: int = 0


class CounterBox:
    """A ``Counters`` shared by threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = Counters()

    def add(self, name: str, amount: int = 1) -> None:
        """Add to one counter, by its field name."""
        with self._lock:
            setattr(self._counts, name, getattr(self._counts, name) + amount)

    def add_chunk(self, num_bytes: int) -> None:
        """Count one chunk that was sent or landed."""
        with self._lock:
            self._counts.num_chunks += 1
            self._counts.num_bytes += num_bytes

    def add_committed(self, stats: TransferStats) -> None:
        """Count one hand-over that ended well, and what of it needed no sending."""
        with self._lock:
            self._counts.num_committed += 1
            self._counts.blocks_skipped += stats.num_skipped_blocks
            self._counts.bytes_skipped += stats.num_skipped_bytes

    def snapshot(self) -> Counters:
        """Return a copy."""
        with self._lock:
            return replace(self._counts)
