"""A prefill worker's KV side as a process of its own: ``python -m tests.fakes.kv_sender_process``.

One command per line on stdin: ``grant <base64> <blocks to offer> <0|1: seal>``; answers ``committed`` or ``failed …``.
"""

import base64
import sys

from tandem.core.blocks import AttemptKey
from tandem.core.clock import MonotonicClock
from tandem.kvtransfer import KvGrant, KvSenderService, TransferStats
from tests.fakes.kv_blocks import FakeBlocks
from tests.fakes.kv_pair import SMALL_LAYOUT, TOKENS

NUM_BLOCKS = 64


class Printer:
    """Writes each outcome as a line."""

    def on_committed(self, key: AttemptKey, stats: TransferStats) -> None:
        """See SenderEvents."""
        print("committed", stats.transport, flush=True)

    def on_failed(self, key: AttemptKey, reason: str, retryable: bool) -> None:
        """See SenderEvents."""
        print("failed", reason, flush=True)


def fill(blocks: FakeBlocks) -> None:
    """Give every block bytes of its own."""
    for start in range(0, len(blocks.data), 251):
        part = memoryview(blocks.data)[start : start + 251]
        part[:] = bytes((start // 251 + index) % 256 for index in range(len(part)))


def main() -> None:
    """Serve commands until stdin ends."""
    blocks = FakeBlocks(NUM_BLOCKS, SMALL_LAYOUT.block_bytes)
    fill(blocks)
    service = KvSenderService(
        worker_id="prefill-0",
        epoch=11,
        layout=SMALL_LAYOUT,
        source=blocks,
        events=Printer(),
        clock=MonotonicClock(),
    )
    print("up", flush=True)
    for line in sys.stdin:
        _, encoded, num_offered, is_sealed = line.split()
        grant = KvGrant.from_bytes(base64.b64decode(encoded))
        refs = blocks.allocate(grant.key, len(grant.blocks))
        service.grant(grant)
        for ordinal in range(int(num_offered)):
            service.offer(grant.key, ordinal, refs[ordinal])
        if is_sealed == "1":
            service.seal(grant.key, len(refs), TOKENS, b"first")
    service.close()


if __name__ == "__main__":
    main()
