"""Two-sided, receiver-validated hand-over of KV blocks between workers; see docs/protocol.md. Never loads torch.

The prefill worker holds a ``KvSenderService``, the decode worker a ``KvReceiverService``; what they say to each other
is decided by the pure machines in ``tandem.kvtransfer.machine``.
"""

from .counters import Counters
from .errors import LayoutMismatch, LinkLost, ProtocolViolation
from .grant import BlockRef, KvEndpoint, KvGrant
from .identity import TransferKey
from .layout import KvLayout
from .memory import DestinationBlocks, SourceBlocks
from .receiver import KvReceiverService, ReceiverEvents
from .sender import KvSenderService, SenderEvents
from .skipped import SkippedPrefix
from .stats import TransferStats

__all__ = [
    "BlockRef",
    "Counters",
    "DestinationBlocks",
    "KvEndpoint",
    "KvGrant",
    "KvLayout",
    "KvReceiverService",
    "KvSenderService",
    "LayoutMismatch",
    "LinkLost",
    "ProtocolViolation",
    "ReceiverEvents",
    "SenderEvents",
    "SkippedPrefix",
    "SourceBlocks",
    "TransferKey",
    "TransferStats",
]
