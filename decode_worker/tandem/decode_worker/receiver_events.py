"""What the decode role needs of a KV receiver, and the relay from the receiver's threads to the engine thread."""

from collections.abc import Callable, Sequence
from typing import Protocol

from tandem.core.blocks import AttemptKey, BlockRef
from tandem.kvtransfer.grant import KvGrant
from tandem.kvtransfer.skipped import SkippedPrefix
from tandem.kvtransfer.stats import TransferStats
from tandem.worker_host.inbox import Inbox


class KvReceiver(Protocol):
    """The part of `tandem.kvtransfer.KvReceiverService` that the role uses."""

    @property
    def num_open(self) -> int:
        """Hand-overs that are not over."""
        ...

    def expect(
        self,
        key: AttemptKey,
        refs: Sequence[BlockRef],
        token_digest: bytes,
        deadline_left_s: float,
        skipped: SkippedPrefix | None,
    ) -> KvGrant:
        """Allow one sender to fill ``refs``, which come after ``skipped``."""
        ...

    def abort(self, key: AttemptKey, reason: str) -> None:
        """Stop; idempotent."""
        ...

    def close(self) -> None:
        """Stop all threads and close all sockets."""
        ...


class ReceiverRelay:
    """Receiver callbacks come on the receiver's threads; this posts them to the engine thread."""

    def __init__(
        self,
        *,
        inbox: Inbox,
        on_ready: Callable[[AttemptKey, bytes, TransferStats], None],
        on_failed: Callable[[AttemptKey, str, bool], None],
    ) -> None:
        self._inbox = inbox
        self._on_ready = on_ready
        self._on_failed = on_failed

    def on_ready(self, key: AttemptKey, payload: bytes, stats: TransferStats) -> None:
        """Every chunk came and the digest fits."""
        self._inbox.post(lambda: self._on_ready(key, payload, stats))

    def on_failed(self, key: AttemptKey, reason: str, retryable: bool) -> None:
        """The hand-over can't succeed any more."""
        self._inbox.post(lambda: self._on_failed(key, reason, retryable))


ReceiverFactory = Callable[[ReceiverRelay], KvReceiver]
