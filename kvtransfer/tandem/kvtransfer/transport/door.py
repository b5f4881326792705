"""Where senders come in: the listening sockets of a receiver and the thread that accepts on them."""

import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import structlog

from tandem.kvtransfer.grant import KvEndpoint, TransportName
from tandem.kvtransfer.host import host_id
from tandem.kvtransfer.threads import Waker

from .listen import Accepted, Identity, listen_shm, listen_tcp, welcome_shm, welcome_tcp

_log = structlog.get_logger(__name__)
_ACCEPT_PAUSE_S = 0.05

Welcome = Callable[[], Accepted]
"""Answers one peer's Hello; raises LinkLost, LayoutMismatch or ProtocolViolation."""


class Door(Protocol):
    """What a receiver asks of its way in."""

    @property
    def endpoints(self) -> tuple[KvEndpoint, ...]:
        """Where senders reach it; part of every grant."""
        ...

    def close(self) -> None:
        """Let nobody in any more; idempotent."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorSettings:
    """Which sockets to open. ``advertise_address`` (host:port) is told to TCP senders instead of what is bound."""

    transports: Sequence[TransportName]
    listen_host: str
    listen_port: int
    advertise_address: str | None
    tls: ssl.SSLContext | None


class ListeningDoor:
    """Listens at once. ``admit`` gets one ``Welcome`` per connection and says whether there is room for it."""

    def __init__(self, settings: DoorSettings, identity: Identity, admit: Callable[[Welcome], bool]) -> None:
        self._settings = settings
        self._identity = identity
        self._admit = admit
        self._is_closed = False
        self._listeners: dict[TransportName, socket.socket] = {}
        for name in settings.transports:
            self._listeners[name] = (
                listen_shm() if name == "shm" else listen_tcp(settings.listen_host, settings.listen_port)
            )
        self._endpoints = tuple(self._endpoint(name) for name in self._listeners)
        self._waker = Waker()
        self._thread = threading.Thread(target=self._accept, name="kv-accept", daemon=True)
        self._thread.start()

    @property
    def endpoints(self) -> tuple[KvEndpoint, ...]:
        """See Door."""
        return self._endpoints

    def close(self) -> None:
        """See Door."""
        if self._is_closed:
            return
        self._is_closed = True
        self._waker.wake()
        self._thread.join()
        self._waker.close()

    def _endpoint(self, name: TransportName) -> KvEndpoint:
        bound = self._listeners[name].getsockname()
        if name == "shm":
            return KvEndpoint(transport=name, address=bound[1:].decode(), host_id=host_id())
        host = self._settings.listen_host
        address = f"[{host}]:{bound[1]}" if ":" in host else f"{host}:{bound[1]}"
        return KvEndpoint(transport=name, address=self._settings.advertise_address or address, host_id="")

    def _accept(self) -> None:
        poller = select.poll()
        names = {listener.fileno(): name for name, listener in self._listeners.items()}
        for fd in (*names, self._waker.fileno()):
            poller.register(fd, select.POLLIN)
        while not self._is_closed:
            for fd, _ in poller.poll():
                if fd in names:
                    self._accept_one(names[fd])
        for listener in self._listeners.values():
            listener.close()

    def _accept_one(self, name: TransportName) -> None:
        try:
            sock, _ = self._listeners[name].accept()
        except OSError as error:
            _log.warning("kv accept failed", problem=str(error))
            time.sleep(_ACCEPT_PAUSE_S)  # out of descriptors: the listener stays readable, don't spin
            return
        welcome: Welcome = (
            partial(welcome_shm, sock, self._identity)
            if name == "shm"
            else partial(welcome_tcp, sock, self._identity, tls=self._settings.tls)
        )
        if not self._admit(welcome):
            sock.close()
