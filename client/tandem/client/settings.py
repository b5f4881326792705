"""How a client reaches its server, and how long and how often it tries."""

from dataclasses import dataclass, field

from tandem.core.errors import InvalidArgument
from tandem.rpc.addresses import require_protection, split_address
from tandem.rpc.tls import TlsMaterial

DEFAULT_TIMEOUT_S = 120.0
DEFAULT_RETRIES = 2
MIN_UNREAD_BYTES = 16 * 1024  # HTTP/2's own frames have this size
MAX_UNREAD_BYTES = 1024 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything a client is made with.

    ``timeout_s`` bounds one call with all its retries. ``num_connections`` spreads calls, because a server limits the
    streams per connection (128 by default). ``max_unread_bytes`` bounds how far the server may send ahead of a reader;
    by default that is gRPC's choice, which grows with the speed of the link, to megabytes.
    """

    address: str
    api_key: str | None = field(default=None, repr=False)
    tls: TlsMaterial | None = None
    insecure: bool = False
    timeout_s: float = DEFAULT_TIMEOUT_S
    retries: int = DEFAULT_RETRIES
    num_connections: int = 1
    max_unread_bytes: int | None = None

    def __post_init__(self) -> None:
        """Raise InvalidArgument for a setting that can't work, ConfigError for an address that needs protection."""
        host, _ = split_address(self.address)
        require_protection(
            host, protected=self.tls is not None, insecure=self.insecure, what="the connection to the server"
        )
        if not self.timeout_s > 0:
            raise InvalidArgument("timeout_s", f"is {self.timeout_s}", remedy="use a number of seconds above 0")
        if self.retries < 0:
            raise InvalidArgument("retries", f"is {self.retries}", remedy="use 0 or more")
        if self.num_connections < 1:
            raise InvalidArgument("num_connections", f"is {self.num_connections}", remedy="use at least 1")
        if self.max_unread_bytes is not None and not MIN_UNREAD_BYTES <= self.max_unread_bytes <= MAX_UNREAD_BYTES:
            raise InvalidArgument(
                "max_unread_bytes",
                f"is {self.max_unread_bytes}",
                remedy=f"use {MIN_UNREAD_BYTES} to {MAX_UNREAD_BYTES}, or leave it out",
            )
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable() and self.api_key):
            raise InvalidArgument("api_key", "is empty or has characters that no key has", remedy="copy it again")
