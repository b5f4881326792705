"""A sender written by hand, frame by frame: for saying to a receiver what no correct sender says."""

import os
import socket
import time
from dataclasses import dataclass, field

from xxhash import xxh3_128_digest

from tandem.kvtransfer import KvGrant, KvLayout
from tandem.kvtransfer.chunks import ChunkPlan
from tandem.kvtransfer.codec import encode, encode_chunk
from tandem.kvtransfer.digest import SealedRange, derive_keys, seal_mac
from tandem.kvtransfer.frames import Chunk, Frame, Hello, HelloAck, Open, Seal
from tandem.kvtransfer.identity import transfer_tag
from tandem.kvtransfer.reader import FrameReader

SRC_EPOCH = 77


@dataclass
class RawPeer:
    """One TCP connection to a receiver and the frames of one grant."""

    grant: KvGrant
    layout: KvLayout
    data: bytes
    sock: socket.socket = field(init=False)
    reader: FrameReader = field(init=False, default_factory=FrameReader)

    def __post_init__(self) -> None:
        endpoint = next(e for e in self.grant.endpoints if e.transport == "tcp")
        host, port = endpoint.address.rsplit(":", 1)
        self.sock = socket.create_connection((host, int(port)), timeout=10)
        self.keys = derive_keys(self.grant.secret)
        self.tag = transfer_tag(self.grant.secret, self.grant.key, dst_epoch=self.grant.dst_epoch)
        self.plan = ChunkPlan(
            num_blocks=len(self.grant.blocks),
            block_bytes=self.layout.block_bytes,
            chunk_bytes=self.grant.chunk_bytes,
        )

    def hello(self) -> Hello:
        """A correct Hello."""
        return Hello(bytes.fromhex(self.layout.fingerprint), SRC_EPOCH, self.grant.dst_epoch, "raw")

    def open(self) -> Open:
        """A correct Open."""
        grant = self.grant
        return Open(
            self.tag,
            SRC_EPOCH,
            grant.dst_epoch,
            grant.attempt,
            len(grant.blocks),
            grant.chunk_bytes,
            grant.request_id,
        )

    def payload(self, seq: int) -> bytes:
        """The right bytes of a chunk."""
        place = self.plan.place(seq)
        if place is None:
            raise IndexError(seq)
        start = place.ordinal * self.layout.block_bytes + place.offset
        return self.data[start : start + place.length]

    def chunk(self, seq: int) -> Chunk:
        """A correct chunk header."""
        place = self.plan.place(seq)
        if place is None:
            raise IndexError(seq)
        ref = self.grant.blocks[place.ordinal]
        digest = xxh3_128_digest(self.payload(seq), self.keys.seed)
        return Chunk(
            self.tag, self.grant.dst_epoch, seq, ref.block_id, ref.generation, place.offset, place.length, digest, None
        )

    def seal(self, *, token_digest: bytes, payload: bytes = b"first") -> Seal:
        """A correct seal."""
        digests = b"".join(self.chunk(seq).digest for seq in range(self.plan.num_chunks))
        mac = seal_mac(
            self.keys,
            fingerprint=self.layout.fingerprint,
            token_digest=token_digest,
            sent=SealedRange(
                num_blocks=self.plan.num_blocks, first_ordinal=self.grant.first_ordinal, claim=self.grant.claim
            ),
            digests=digests,
            payload=payload,
        )
        num_chunks = self.plan.num_chunks
        return Seal(self.tag, self.grant.dst_epoch, self.plan.num_blocks, num_chunks, len(self.data), 0, mac, payload)

    def send(self, *frames: Frame) -> None:
        """Send control frames."""
        self.sock.sendall(b"".join(encode(frame) for frame in frames))

    def send_chunk(self, chunk: Chunk, payload: bytes) -> None:
        """Send a chunk with this payload, whatever its header says."""
        self.sock.sendall(encode_chunk(chunk, digest=chunk.digest, slot=None) + payload)

    def greet(self) -> None:
        """Say Hello and Open, and see that it is welcome."""
        self.send(self.hello(), self.open())
        if not isinstance(self.receive(), HelloAck):
            raise RuntimeError("not welcome")

    def receive(self) -> Frame:
        """Return the next frame; EOFError when the receiver closed."""
        while not getattr(self, "_frames", None):
            data = self.sock.recv(65536)
            if not data:
                raise EOFError
            self._frames = self.reader.feed(data)
        return self._frames.pop(0)

    def is_closed_within(self, timeout_s: float) -> bool:
        """Read everything until the receiver closes."""
        end_s = time.monotonic() + timeout_s
        while time.monotonic() < end_s:
            try:
                self.receive()
            except (EOFError, ConnectionError):
                return True
            except TimeoutError:
                return False
        return False

    def close(self) -> None:
        """Close the connection."""
        self.sock.close()


def num_fds() -> int:
    """Open descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))
