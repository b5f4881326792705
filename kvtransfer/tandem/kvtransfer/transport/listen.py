"""The receiver's side of a hand-shake: listening sockets, and from an accepted socket to a channel."""

import os
import secrets
import socket
import ssl
import struct
from dataclasses import dataclass

from tandem.kvtransfer.codec import HEADER_BYTES, decode, decode_header, encode
from tandem.kvtransfer.errors import LayoutMismatch, LinkLost, ProtocolViolation
from tandem.kvtransfer.frames import Hello, HelloAck, HelloStatus
from tandem.kvtransfer.timing import HELLO_TIMEOUT_S
from tandem.kvtransfer.wire import PlainWire, TlsWire, Wire, read_exactly, tune

from .base import ReceivingChannel
from .ring import NUM_SLOTS, SLOT_BYTES, StagingRing, create_ring_fd
from .shm import ShmReceivingChannel
from .tcp import TcpReceivingChannel

_BACKLOG = 64
_UCRED = struct.Struct("3i")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who this receiver is, for the hand-shake."""

    worker_id: str
    epoch: int
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class Accepted:
    """A peer that said Hello and was welcomed."""

    channel: ReceivingChannel
    hello: Hello


def listen_tcp(host: str, port: int = 0) -> socket.socket:
    """Bind one address; port 0 = any free one."""
    info = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)[0]
    sock = socket.socket(info[0], info[1], info[2])
    try:
        tune(sock)
        if port:  # a worker that is started again must get its port back, whatever still lingers there
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(info[4])
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def listen_shm() -> socket.socket:
    """Bind an abstract Unix socket of a fresh random name: no file, gone with its last descriptor."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind("\0tandem-kv-" + secrets.token_hex(16))
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def welcome_tcp(sock: socket.socket, identity: Identity, *, tls: ssl.SSLContext | None) -> Accepted:
    """Answer a TCP peer's Hello; on any error the socket is closed and LinkLost, LayoutMismatch or
    ProtocolViolation raised."""
    wire: Wire | None = None
    try:
        sock.settimeout(HELLO_TIMEOUT_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wire = PlainWire(sock) if tls is None else TlsWire(tls.wrap_socket(sock, server_side=True))
        hello = read_hello(wire, identity)
        wire.send(encode(_ack(identity, HelloStatus.WELCOME)))
        return Accepted(TcpReceivingChannel(wire), hello)
    except BaseException as error:
        sock.close() if wire is None else wire.close()
        if isinstance(error, OSError):
            raise LinkLost(f"hand-shake failed: {error}") from error
        raise


def welcome_shm(sock: socket.socket, identity: Identity) -> Accepted:
    """Answer a local peer of the same user and pass it the ring; errors as in ``welcome_tcp``."""
    try:
        _, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        if uid != os.getuid():
            raise ProtocolViolation("hello: another user's process")
        wire = PlainWire(sock)
        hello = read_hello(wire, identity)
        ring_fd = create_ring_fd()
        try:
            head = encode(_ack(identity, HelloStatus.WELCOME, num_slots=NUM_SLOTS, slot_bytes=SLOT_BYTES))
            socket.send_fds(sock, [head], [ring_fd])
        except BaseException:
            os.close(ring_fd)
            raise
        ring = StagingRing(ring_fd, num_slots=NUM_SLOTS, slot_bytes=SLOT_BYTES)
        return Accepted(ShmReceivingChannel(wire, ring), hello)
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError):
            raise LinkLost(f"hand-shake failed: {error}") from error
        raise


def read_hello(wire: Wire, identity: Identity) -> Hello:
    header = decode_header(read_exactly(wire, HEADER_BYTES))
    hello = decode(header, read_exactly(wire, header.payload_bytes))
    if not isinstance(hello, Hello):
        raise ProtocolViolation(f"hello: {type(hello).__name__} came first")
    if hello.fingerprint != identity.fingerprint:
        wire.send(encode(_ack(identity, HelloStatus.LAYOUT_MISMATCH)))
        raise LayoutMismatch(own=identity.fingerprint.hex(), other=hello.fingerprint.hex())
    if hello.dst_epoch != identity.epoch:
        wire.send(encode(_ack(identity, HelloStatus.STALE_EPOCH)))
        raise LinkLost("hello: meant for an earlier life of this worker", reason="STALE_EPOCH")
    return hello


def _ack(identity: Identity, status: HelloStatus, *, num_slots: int = 0, slot_bytes: int = 0) -> HelloAck:
    return HelloAck(status, identity.epoch, num_slots, slot_bytes, identity.worker_id)
