"""The sending process of the KV benchmark. One JSON command per line on stdin; ``benchmarks.kvtransfer`` starts it.

``{"plain": port}`` connects and sends every block with ``sendall``; ``{"offer": n}`` offers and seals every block for
round n, as a prefill that is done; ``{"grant": base64}`` lets the service hand them over.
"""

import base64
import json
import socket
import sys

from benchmarks.kvtransfer_blocks import LAYOUT, SOCKET_BUFFER_BYTES, BenchmarkBlocks, key_of, pin_to_cpu
from tandem.core.blocks import AttemptKey
from tandem.core.clock import MonotonicClock
from tandem.kvtransfer import KvGrant, KvSenderService, TransferStats

TOKEN_DIGEST = b"benchmark"


class Reporter:
    """Writes each outcome as a line."""

    def on_committed(self, key: AttemptKey, stats: TransferStats) -> None:
        """See SenderEvents."""
        print(json.dumps({"committed": stats.transport}), flush=True)

    def on_failed(self, key: AttemptKey, reason: str, retryable: bool) -> None:
        """See SenderEvents."""
        print(json.dumps({"failed": reason}), flush=True)


def send_plain(blocks: BenchmarkBlocks, port: int) -> None:
    """The baseline: the same blocks, one ``sendall`` each, nothing else."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.connect(("127.0.0.1", port))
        for view in blocks.views:
            sock.sendall(view)
        sock.recv(1)
    print(json.dumps({"sent": True}), flush=True)


def main() -> None:
    """Serve commands until stdin ends."""
    num_blocks = int(sys.argv[1])
    pin_to_cpu(int(sys.argv[2]))
    blocks = BenchmarkBlocks(num_blocks, seed=1)
    service = KvSenderService(
        worker_id="benchmark-prefill",
        epoch=1,
        layout=LAYOUT,
        source=blocks,
        events=Reporter(),
        clock=MonotonicClock(),
    )
    print(json.dumps({"up": True}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        if "plain" in command:
            send_plain(blocks, command["plain"])
            continue
        if "offer" in command:
            key = key_of(command["offer"])
            for ordinal, ref in enumerate(blocks.refs):
                service.offer(key, ordinal, ref)
            service.seal(key, num_blocks, TOKEN_DIGEST, b"first")
            print(json.dumps({"offered": True}), flush=True)
            continue
        service.grant(KvGrant.from_bytes(base64.b64decode(command["grant"])))
    service.close()


if __name__ == "__main__":
    main()
