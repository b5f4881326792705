"""Addresses of servers, and the rule about plain text: it is for loopback. No gRPC in here.

Anything else needs TLS, or somebody who says ``insecure=True``.
"""

import ipaddress

from tandem.core.errors import ConfigError


def is_loopback(host: str) -> bool:
    """Tell whether ``host`` can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def split_address(address: str) -> tuple[str, int]:
    """Split ``host:port`` or ``[v6]:port``. Raises ConfigError when it is neither."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"{address!r} is not an address", remedy="write host:port, e.g. 127.0.0.1:50051")
    return host.strip("[]"), int(port)


def join_address(host: str, port: int) -> str:
    """Return ``host:port``, with brackets around an IPv6 host."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def require_protection(host: str, *, protected: bool, insecure: bool, what: str) -> None:
    """Raise ConfigError when ``host`` is not loopback and nothing protects ``what``, unless ``insecure`` allows it."""
    if not (protected or insecure or is_loopback(host)):
        raise ConfigError(
            f"{what} at {host} would be open to the network without TLS and authentication",
            remedy="use a loopback address, or give certificates (and keys), or say --insecure if you mean it",
        )
