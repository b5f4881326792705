"""The sender's side of a hand-shake: from an endpoint to a channel."""

import array
import os
import socket
import ssl

from tandem.core import reasons
from tandem.kvtransfer.codec import HEADER_BYTES, decode, decode_header, encode
from tandem.kvtransfer.errors import LayoutMismatch, LinkLost, ProtocolViolation
from tandem.kvtransfer.frames import Hello, HelloAck, HelloStatus
from tandem.kvtransfer.grant import KvEndpoint
from tandem.kvtransfer.timing import HELLO_TIMEOUT_S
from tandem.kvtransfer.wire import PlainWire, TlsWire, Wire, read_exactly, tune

from .base import SendingChannel
from .ring import StagingRing
from .shm import ShmSendingChannel
from .tcp import TcpSendingChannel


def connect(endpoint: KvEndpoint, hello: Hello, *, tls: ssl.SSLContext | None) -> SendingChannel:
    """Connect and greet; raises LinkLost, LayoutMismatch or ProtocolViolation and then leaves nothing open."""
    try:
        return _connect_shm(endpoint, hello) if endpoint.transport == "shm" else _connect_tcp(endpoint, hello, tls)
    except (OSError, ValueError) as error:
        raise LinkLost(f"{endpoint.transport} connection failed: {error}") from error


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of ``host:port`` or ``[v6]:port``; raises ProtocolViolation."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ProtocolViolation(f"endpoint: {address!r} is not host:port")
    return host.strip("[]"), int(port)


def _connect_tcp(endpoint: KvEndpoint, hello: Hello, tls: ssl.SSLContext | None) -> SendingChannel:
    host, port = split_address(endpoint.address)
    family = socket.AF_INET6 if ":" in host else socket.AF_UNSPEC
    info = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)[0]
    sock = socket.socket(info[0], info[1], info[2])
    wire: Wire | None = None
    try:
        tune(sock)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(HELLO_TIMEOUT_S)
        sock.connect(info[4])
        wire = PlainWire(sock) if tls is None else TlsWire(tls.wrap_socket(sock, server_hostname=host))
        wire.send(encode(hello))
        check_answer(_read_ack(wire, read_exactly(wire, HEADER_BYTES)), hello)
    except BaseException:
        sock.close() if wire is None else wire.close()
        raise
    return TcpSendingChannel(wire)


def _connect_shm(endpoint: KvEndpoint, hello: Hello) -> SendingChannel:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(HELLO_TIMEOUT_S)
        sock.connect("\0" + endpoint.address)
        sock.sendall(encode(hello))
        head, fd = _receive_with_fd(sock)
        wire = PlainWire(sock)
        try:
            ack = _read_ack(wire, head)
            check_answer(ack, hello)
        except BaseException:
            if fd is not None:
                os.close(fd)
            raise
        if fd is None:
            raise ProtocolViolation("hello: no staging ring came with the answer")
        return ShmSendingChannel(wire, StagingRing.attach(fd, num_slots=ack.num_slots, slot_bytes=ack.slot_bytes))
    except BaseException:
        sock.close()
        raise


def _receive_with_fd(sock: socket.socket) -> tuple[bytes, int | None]:
    """Read one header and the descriptor that may come with its first byte."""
    size = array.array("i").itemsize
    head, ancillary, _, _ = sock.recvmsg(HEADER_BYTES, socket.CMSG_SPACE(size), socket.MSG_CMSG_CLOEXEC)
    fd: int | None = None
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS and len(data) >= size:
            fd = array.array("i", data[:size])[0]
    if not head:
        raise LinkLost("peer closed the connection")
    while len(head) < HEADER_BYTES:
        more = sock.recv(HEADER_BYTES - len(head))
        if not more:
            raise LinkLost("peer closed the connection")
        head += more
    return head, fd


def _read_ack(wire: Wire, head: bytes) -> HelloAck:
    header = decode_header(head)
    ack = decode(header, read_exactly(wire, header.payload_bytes))
    if not isinstance(ack, HelloAck):
        raise ProtocolViolation(f"hello: answered by {type(ack).__name__}")
    return ack


def check_answer(ack: HelloAck, hello: Hello) -> None:
    if ack.status is HelloStatus.LAYOUT_MISMATCH:
        raise LayoutMismatch(own=hello.fingerprint.hex(), other="another")
    if ack.status is HelloStatus.STALE_EPOCH or ack.epoch != hello.dst_epoch:
        raise LinkLost("the receiver was restarted since it gave the grant", reason=reasons.KV_PEER_LOST)
    if ack.status is not HelloStatus.WELCOME:
        raise LinkLost("the receiver has too many connections")
