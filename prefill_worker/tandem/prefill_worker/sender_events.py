"""What the prefill role needs of a KV sender, and the relay from the sender's threads to the engine thread."""

from collections.abc import Callable
from typing import Protocol

from tandem.core.blocks import AttemptKey, BlockRef
from tandem.kvtransfer.grant import KvGrant
from tandem.kvtransfer.stats import TransferStats
from tandem.worker_host.inbox import Inbox


class KvSender(Protocol):
    """The part of `tandem.kvtransfer.KvSenderService` that the role uses."""

    @property
    def num_open(self) -> int:
        """Hand-overs that are not over."""
        ...

    def grant(self, grant: KvGrant, prefix_key: bytes) -> None:
        """Take D's grant; raises LayoutMismatch before any byte is sent.

        ``prefix_key`` is P's own name of the last block that the grant leaves out.
        """
        ...

    def offer(self, key: AttemptKey, ordinal: int, ref: BlockRef) -> None:
        """Block ``ordinal`` of the prompt is complete, computed or cached; it goes out if the grant names it."""
        ...

    def seal(self, key: AttemptKey, *, num_blocks: int, token_digest: bytes, payload: bytes) -> None:
        """All blocks were offered; the first tokens are known."""
        ...

    def abort(self, key: AttemptKey, reason: str) -> None:
        """Stop; idempotent."""
        ...

    def close(self) -> None:
        """Stop all threads and close all connections."""
        ...


class SenderRelay:
    """Sender callbacks come on the sender's threads; this posts them to the engine thread."""

    def __init__(
        self,
        *,
        inbox: Inbox,
        on_committed: Callable[[AttemptKey], None],
        on_failed: Callable[[AttemptKey, str, bool], None],
    ) -> None:
        self._inbox = inbox
        self._on_committed = on_committed
        self._on_failed = on_failed

    def on_committed(self, key: AttemptKey, stats: TransferStats) -> None:
        """D holds verified KV: P's copy may go."""
        self._inbox.post(lambda: self._on_committed(key))

    def on_failed(self, key: AttemptKey, reason: str, retryable: bool) -> None:
        """The hand-over can't succeed any more."""
        self._inbox.post(lambda: self._on_failed(key, reason, retryable))


SenderFactory = Callable[[SenderRelay], KvSender]
