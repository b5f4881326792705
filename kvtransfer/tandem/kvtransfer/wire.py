"""One connected stream socket, plain or TLS, as the links use it: blocking transfers that never wait for ever.

Kernel timeouts (SO_RCVTIMEO, SO_SNDTIMEO) instead of Python's, because those cost a poll per call. One thread at a
time, except for ``interrupt``.
"""

import contextlib
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable
from typing import Final, Protocol

from .errors import LinkLost
from .timing import IDLE_FLOOR_S

SOCKET_BUFFER_BYTES: Final = 4 << 20
_SLICE_S: Final = 0.2


class Wire(Protocol):
    """A byte stream to one peer. Every method raises LinkLost when the peer is gone or stands still."""

    def fileno(self) -> int:
        """Descriptor to poll for reading."""
        ...

    def send(self, head: bytes, payload: memoryview | None = None) -> None:
        """Send all of ``head`` and ``payload``."""
        ...

    def read_available(self, size: int) -> bytes:
        """Return up to ``size`` bytes that are here already; empty if there are none."""
        ...

    def read_available_into(self, view: memoryview) -> int:
        """Fill from what is here already; 0 if there is nothing."""
        ...

    def read_into(self, view: memoryview, stopped: Callable[[], bool] | None = None) -> int:
        """Fill ``view`` and return its length; fewer bytes once ``stopped()`` turned true."""
        ...

    def interrupt(self) -> None:
        """End the connection from any thread: whoever reads or writes gets LinkLost."""
        ...

    def close(self) -> None:
        """Close; idempotent; only by the thread that uses the wire."""
        ...


def _never() -> bool:
    return False


class PlainWire:
    """A TCP or Unix socket without encryption."""

    def __init__(self, sock: socket.socket, *, idle_s: float = IDLE_FLOOR_S) -> None:
        self._sock = sock
        self._num_idle_slices = max(1, round(idle_s / _SLICE_S))
        sock.settimeout(None)
        period = struct.pack("ll", 0, int(_SLICE_S * 1e6))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, period)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, period)

    @property
    def socket(self) -> socket.socket:
        """The socket itself, for passing descriptors."""
        return self._sock

    def fileno(self) -> int:
        """See Wire."""
        return self._sock.fileno()

    def send(self, head: bytes, payload: memoryview | None = None) -> None:
        """See Wire."""
        try:
            if payload is None:
                self._send_all(memoryview(head), 0)
                return
            sent = self._sock.sendmsg((head, payload))
            if sent == len(head) + len(payload):
                return
            if sent < len(head):
                self._send_all(memoryview(head), sent)
                sent = len(head)
            self._send_all(payload, sent - len(head))
        except BlockingIOError:
            self._send_all(memoryview(head), 0)
            if payload is not None:
                self._send_all(payload, 0)
        except OSError as error:
            raise LinkLost(f"send failed: {error.strerror or error}") from error

    def _send_all(self, view: memoryview, sent: int) -> None:
        num_idle = 0
        while sent < len(view):
            try:
                sent += self._sock.send(view[sent:])
                num_idle = 0
            except BlockingIOError:
                num_idle += 1
                if num_idle >= self._num_idle_slices:
                    raise LinkLost("peer takes no bytes") from None
            except OSError as error:
                raise LinkLost(f"send failed: {error.strerror or error}") from error

    def read_available(self, size: int) -> bytes:
        """See Wire."""
        try:
            data = self._sock.recv(size, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise LinkLost(f"receive failed: {error.strerror or error}") from error
        if not data:
            raise LinkLost("peer closed the connection")
        return data

    def read_available_into(self, view: memoryview) -> int:
        """See Wire."""
        try:
            got = self._sock.recv_into(view, 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise LinkLost(f"receive failed: {error.strerror or error}") from error
        if not got:
            raise LinkLost("peer closed the connection")
        return got

    def read_into(self, view: memoryview, stopped: Callable[[], bool] | None = None) -> int:
        """See Wire."""
        got = 0
        num_idle = 0
        is_stopped = stopped or _never
        while got < len(view):
            if is_stopped():
                break
            try:
                count = self._sock.recv_into(view[got:] if got else view, 0, socket.MSG_WAITALL)
            except BlockingIOError:
                num_idle += 1
                if num_idle >= self._num_idle_slices:
                    raise LinkLost("peer sends no bytes") from None
                continue
            except OSError as error:
                raise LinkLost(f"receive failed: {error.strerror or error}") from error
            if not count:
                raise LinkLost("peer closed the connection")
            got += count
            num_idle = 0
        return got

    def interrupt(self) -> None:
        """See Wire."""
        _shut_down(self._sock)

    def close(self) -> None:
        """See Wire."""
        _shut_down(self._sock)
        self._sock.close()


class TlsWire:
    """A TLS connection; both ends have shown certificates if the context asks for them."""

    def __init__(self, sock: ssl.SSLSocket, *, idle_s: float = IDLE_FLOOR_S) -> None:
        self._sock = sock
        self._num_idle_slices = max(1, round(idle_s / _SLICE_S))
        sock.setblocking(False)

    def fileno(self) -> int:
        """See Wire."""
        return self._sock.fileno()

    def send(self, head: bytes, payload: memoryview | None = None) -> None:
        """See Wire."""
        self._run_all(memoryview(head), self._sock.send, _never)
        if payload is not None:
            self._run_all(payload, self._sock.send, _never)

    def read_available(self, size: int) -> bytes:
        """See Wire."""
        buffer = bytearray(size)
        return bytes(buffer[: self.read_available_into(memoryview(buffer))])

    def read_available_into(self, view: memoryview) -> int:
        """See Wire."""
        try:
            got = self._sock.recv_into(view)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0
        except (OSError, ValueError) as error:
            raise LinkLost(f"receive failed: {error}") from error
        if not got:
            raise LinkLost("peer closed the connection")
        return got

    def read_into(self, view: memoryview, stopped: Callable[[], bool] | None = None) -> int:
        """See Wire."""
        return self._run_all(view, self._sock.recv_into, stopped or _never)

    def _run_all(self, view: memoryview, step: Callable[[memoryview], int], is_stopped: Callable[[], bool]) -> int:
        done = 0
        num_idle = 0
        while done < len(view):
            if is_stopped():
                break
            try:
                count = step(view[done:])
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as want:
                num_idle = 0 if self._wait(want) else num_idle + 1
                if num_idle >= self._num_idle_slices:
                    raise LinkLost("peer stands still") from None
                continue
            except (OSError, ValueError) as error:
                raise LinkLost(f"TLS connection failed: {error}") from error
            if not count:
                raise LinkLost("peer closed the connection")
            done += count
        return done

    def _wait(self, want: ssl.SSLError) -> bool:
        mask = select.POLLOUT if isinstance(want, ssl.SSLWantWriteError) else select.POLLIN
        poller = select.poll()
        poller.register(self._sock, mask)
        return bool(poller.poll(_SLICE_S * 1000))

    def interrupt(self) -> None:
        """See Wire."""
        _shut_down(self._sock)

    def close(self) -> None:
        """See Wire."""
        _shut_down(self._sock)
        self._sock.close()


def tune(sock: socket.socket) -> None:
    """Give a socket the buffers a link wants. Before connect or listen, so that the window scale fits."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES)


def read_exactly(wire: Wire, size: int, *, within_s: float = IDLE_FLOOR_S) -> bytes:
    """Read a small control message; raises LinkLost if the peer trickles it for longer than ``within_s``."""
    buffer = bytearray(size)
    end_s = time.monotonic() + within_s
    if wire.read_into(memoryview(buffer), lambda: time.monotonic() > end_s) < size:
        raise LinkLost("peer is too slow")
    return bytes(buffer)


def _shut_down(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # never connected, or gone already
        sock.shutdown(socket.SHUT_RDWR)
