"""Whether anybody listens where a Ray cluster is said to be. Ray itself takes minutes to give a wrong address up."""

import contextlib
import socket
import time

_LIMIT_S = 10.0  # for a head that is just being started
_PAUSE_S = 0.2


def require_listener(address: str, *, limit_s: float = _LIMIT_S) -> None:
    """Raise OSError when nobody listens at ``host:port``; other forms, as ``auto``, are left to Ray. Blocking."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit():
        return
    end_s = time.monotonic() + limit_s
    while True:
        try:
            with contextlib.closing(socket.create_connection((host.strip("[]"), int(port)), timeout=limit_s)):
                return
        except OSError:
            if time.monotonic() + _PAUSE_S > end_s:
                raise
        time.sleep(_PAUSE_S)
