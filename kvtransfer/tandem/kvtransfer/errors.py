"""What can be wrong between two workers that hand KV over; all are ``TandemError``."""

from tandem.core import reasons
from tandem.core.errors import FailedPrecondition, ServiceError


class LayoutMismatch(FailedPrecondition):
    """The two workers do not store KV in the same form; no byte may move between them. Not retryable on this pair."""

    reason = reasons.KV_LAYOUT

    def __init__(self, *, own: str, other: str) -> None:
        super().__init__(
            f"KV layout fingerprint {other[:12]}… does not equal this worker's {own[:12]}…; "
            "run both workers with the same model revision, tokenizer, dtype, block size and Tandem version"
        )


class ProtocolViolation(ServiceError):
    """A peer sent bytes that no correct peer sends; its connection is closed and everything on it fails."""

    reason = "KV_PROTOCOL"
    retryable = True


class LinkLost(ServiceError):
    """The connection to the peer ended, or made no progress for the idle time."""

    reason = reasons.KV_PEER_LOST
    retryable = True
