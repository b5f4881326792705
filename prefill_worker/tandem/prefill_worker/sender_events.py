"""What the prefill role needs of a KV sender, and the relay from the sender's threads to the engine thread."""

from collections.abc import Callable
from typing import Protocol

from tandem.core.blocks import AttemptKey
from tandem.kvtransfer.grant import BlockRef, KvGrant
from tandem.kvtransfer.identity import TransferKey
from tandem.kvtransfer.stats import TransferStats
from tandem.worker_host.inbox import Inbox
from tandem.worker_host.kv_memory import to_attempt_key


class KvSender(Protocol):
    """The part of `tandem.kvtransfer.KvSenderService` that the role uses."""

    def grant(self, grant: KvGrant) -> None:
        """Take D's grant; raises LayoutMismatch before any byte is sent."""
        ...

    def offer(self, key: TransferKey, ordinal: int, ref: BlockRef) -> None:
        """Block ``ordinal`` of the prompt is complete."""
        ...

    def seal(self, key: TransferKey, *, num_blocks: int, token_digest: bytes, payload: bytes) -> None:
        """All blocks were offered; the first tokens are known."""
        ...

    def abort(self, key: TransferKey, reason: str) -> None:
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

    def on_committed(self, key: TransferKey, stats: TransferStats) -> None:
        """D holds verified KV: P's copy may go."""
        self._inbox.post(lambda: self._on_committed(to_attempt_key(key)))

    def on_failed(self, key: TransferKey, reason: str, retryable: bool) -> None:
        """The hand-over can't succeed any more."""
        self._inbox.post(lambda: self._on_failed(to_attempt_key(key), reason, retryable))


SenderFactory = Callable[[SenderRelay], KvSender]
