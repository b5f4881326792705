"""Figures of one finished hand-over."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferStats:
    """Measured on the clock of the side that reports it.

    ``total_s`` runs from the grant to the verified (receiver) or committed (sender) hand-over; ``exposed_s`` is the
    part after the sender's engine sealed: what streaming during prefill could not hide.
    ``num_bytes`` were sent; what was skipped of the KV was not, because the receiver held it.
    """

    transport: str
    num_bytes: int
    num_chunks: int
    total_s: float
    exposed_s: float
    num_skipped_blocks: int = 0
    num_skipped_bytes: int = 0
