"""A sender and a receiver service in one process, with fake blocks and recorded callbacks."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from tandem.core.clock import MonotonicClock
from tandem.kvtransfer import (
    BlockRef,
    KvGrant,
    KvLayout,
    KvReceiverService,
    KvSenderService,
    TransferKey,
    TransferStats,
)
from tandem.kvtransfer.grant import TransportName
from tests.fakes.kv_blocks import FakeBlocks

SMALL_LAYOUT = KvLayout(
    model_digest="m",
    tokenizer_digest="t",
    dtype="float32",
    num_layers=2,
    num_kv_heads=2,
    head_dim=8,
    block_size=16,
    rope_digest="r",
)
TOKENS = b"digest of the token ids"


@dataclass
class RecordedEvents:
    """Remembers every callback of either service."""

    committed: dict[TransferKey, TransferStats] = field(default_factory=dict)
    ready: dict[TransferKey, bytes] = field(default_factory=dict)
    failed: dict[TransferKey, tuple[str, bool]] = field(default_factory=dict)
    num_calls: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)

    def on_committed(self, key: TransferKey, stats: TransferStats) -> None:
        """See SenderEvents."""
        with self.changed:
            self.committed[key] = stats
            self.num_calls += 1
            self.changed.notify_all()

    def on_ready(self, key: TransferKey, payload: bytes, stats: TransferStats) -> None:
        """See ReceiverEvents."""
        with self.changed:
            self.ready[key] = payload
            self.num_calls += 1
            self.changed.notify_all()

    def on_failed(self, key: TransferKey, reason: str, retryable: bool) -> None:
        """See both."""
        with self.changed:
            self.failed[key] = (reason, retryable)
            self.num_calls += 1
            self.changed.notify_all()

    def wait(self, condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
        """Block until ``condition()``; raises TimeoutError."""
        with self.changed:
            if not self.changed.wait_for(condition, timeout_s):
                raise TimeoutError(f"ready={self.ready} committed={self.committed} failed={self.failed}")


@dataclass
class KvPair:
    """Both sides. ``data`` of a key is what the sender's blocks held when they were offered."""

    sender: KvSenderService
    receiver: KvReceiverService
    source: FakeBlocks
    target: FakeBlocks
    sent: RecordedEvents
    received: RecordedEvents
    source_refs: dict[TransferKey, list[BlockRef]] = field(default_factory=dict)

    def fill(self, key: TransferKey, num_blocks: int, *, seed: int = 1) -> bytes:
        """Allocate source blocks with recognisable bytes; return them."""
        refs = self.source.allocate(key, num_blocks)
        self.source_refs[key] = list(refs)
        parts = []
        for position, ref in enumerate(refs):
            pattern = bytes((seed * 31 + position * 7 + index) % 251 for index in range(251))
            size = self.source.block_bytes
            content = (pattern * (size // 251 + 1))[:size]
            self.source.view(ref)[:] = content
            parts.append(content)
        return b"".join(parts)

    def expect(self, key: TransferKey, num_blocks: int, *, deadline_left_s: float = 30.0) -> KvGrant:
        """Reserve target blocks and make the grant."""
        return self.receiver.expect(key, self.target.allocate(key, num_blocks), TOKENS, deadline_left_s)

    def offer_all(self, key: TransferKey) -> None:
        """Offer every source block in order."""
        for ordinal, ref in enumerate(self.source_refs[key]):
            self.sender.offer(key, ordinal, ref)

    def seal(self, key: TransferKey, *, payload: bytes = b"first") -> None:
        """Seal with the usual token digest."""
        self.sender.seal(key, num_blocks=len(self.source_refs[key]), token_digest=TOKENS, payload=payload)

    def target_bytes(self, grant: KvGrant) -> bytes:
        """What lies in the granted blocks."""
        return b"".join(bytes(self.target.view(ref)) for ref in grant.blocks)

    def close(self) -> None:
        """End both services."""
        self.sender.close()
        self.receiver.close()


@contextlib.contextmanager
def kv_pair(
    *,
    transports: Sequence[TransportName] = ("shm", "tcp"),
    layout: KvLayout = SMALL_LAYOUT,
    sender_layout: KvLayout | None = None,
    num_blocks: int = 64,
    guarded_target: bool = True,
    guarded_source: bool = True,
) -> Iterator[KvPair]:
    """Start both services on loopback and end them afterwards."""
    source = FakeBlocks(num_blocks, layout.block_bytes, guarded=guarded_source)
    target = FakeBlocks(num_blocks, layout.block_bytes, guarded=guarded_target)
    sent, received = RecordedEvents(), RecordedEvents()
    receiver = KvReceiverService(
        worker_id="decode-0",
        epoch=22,
        layout=layout,
        destination=target,
        events=received,
        listen_host="127.0.0.1",
        clock=MonotonicClock(),
        transports=transports,
    )
    sender = KvSenderService(
        worker_id="prefill-0",
        epoch=11,
        layout=sender_layout or layout,
        source=source,
        events=sent,
        clock=MonotonicClock(),
    )
    pair = KvPair(sender, receiver, source, target, sent, received)
    try:
        yield pair
    finally:
        pair.close()


def eventually(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Poll until ``condition()``; raises TimeoutError."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end_s:
            raise TimeoutError("condition did not come true")
        time.sleep(0.005)
