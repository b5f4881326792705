"""The one place where gRPC channels and servers are made, with keepalive, size limits and the rule about plain text.

Plain text is for loopback. Anything else needs TLS, or somebody who says ``insecure=True``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import grpc
import grpc.aio

from tandem.core.errors import EnvironmentProblem
from tandem.rpc.addresses import is_loopback as is_loopback  # noqa: PLC0414 - part of this surface
from tandem.rpc.addresses import require_protection, split_address
from tandem.rpc.credentials import channel_credentials, server_credentials
from tandem.rpc.tls import TlsMaterial

Option = tuple[str, int | str]

KEEPALIVE_TIME_MS: Final = 10_000
KEEPALIVE_TIMEOUT_MS: Final = 6_000  # a peer that stands still for less than 5 s loses no connection
MAX_METADATA_BYTES: Final = 8 * 1024
PUBLIC_RECEIVE_BYTES: Final = 1024 * 1024
INTERNAL_RECEIVE_BYTES: Final = 16 * 1024 * 1024
ANSWER_RECEIVE_BYTES: Final = 64 * 1024 * 1024  # eight long sequences with 20 log-probabilities at each position


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """What one server takes from its peers."""

    max_receive_bytes: int = PUBLIC_RECEIVE_BYTES
    max_concurrent_streams: int = 128  # per connection
    max_concurrent_calls: int = 4096  # in all
    max_connection_age_s: float | None = 30 * 60.0  # then a client connects anew; running calls end in peace


INTERNAL_LIMITS: Final = ServerLimits(
    max_receive_bytes=INTERNAL_RECEIVE_BYTES, max_concurrent_streams=1024, max_connection_age_s=None
)


def _keepalive() -> list[Option]:
    return [
        ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        # What gRPC really waits for an answered ping; by default a whole minute, whatever the line above says.
        ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ]


def _window(max_unread_bytes: int | None) -> list[Option]:
    if max_unread_bytes is None:
        return []
    return [
        ("grpc.http2.lookahead_bytes", max_unread_bytes),
        ("grpc.http2.bdp_probe", 0),  # else the window grows with what the link can carry
    ]


def client_options(*, keepalive_without_calls: bool = False, max_unread_bytes: int | None = None) -> list[Option]:
    """Return channel arguments of a client; ``max_unread_bytes`` is how far its peer may send ahead of a reader."""
    return [
        *_window(max_unread_bytes),
        *_keepalive(),
        ("grpc.keepalive_permit_without_calls", int(keepalive_without_calls)),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.max_receive_message_length", ANSWER_RECEIVE_BYTES),
        ("grpc.max_send_message_length", INTERNAL_RECEIVE_BYTES),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", 2 * MAX_METADATA_BYTES),
        # Retries are ours: gRPC's own can't see what was already emitted.
        ("grpc.enable_retries", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        # A proxy in the environment must not see what goes to a worker beside us.
        ("grpc.enable_http_proxy", 0),
        # Two channels to one address are two connections: streams per connection are limited.
        ("grpc.use_local_subchannel_pool", 1),
    ]


def server_options(limits: ServerLimits) -> list[Option]:
    """Return channel arguments of a server."""
    options: list[Option] = [
        # Linux lets two processes share a port with SO_REUSEPORT; then a port in use goes unnoticed.
        ("grpc.so_reuseport", 0),
        *_keepalive(),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # The default takes a client's ping each 10 s for an attack.
        ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_TIME_MS // 2),
        ("grpc.max_receive_message_length", limits.max_receive_bytes),
        ("grpc.max_send_message_length", ANSWER_RECEIVE_BYTES),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", 2 * MAX_METADATA_BYTES),
        ("grpc.max_concurrent_streams", limits.max_concurrent_streams),
    ]
    if limits.max_connection_age_s is not None:
        options.append(("grpc.max_connection_age_ms", round(limits.max_connection_age_s * 1000)))
    return options


def open_channel(
    address: str, *, tls: TlsMaterial | None = None, insecure: bool = False, options: Sequence[Option] | None = None
) -> grpc.aio.Channel:
    """Return an asyncio channel to ``host:port``. Raises ConfigError for plain text to a machine that is not this one.

    Without ``options`` it is an internal channel, which pings even without calls: a lost worker must be noticed.
    """
    host, _ = split_address(address)
    require_protection(host, protected=tls is not None, insecure=insecure, what="the connection to the server")
    arguments = list(client_options(keepalive_without_calls=True) if options is None else options)
    if tls is None:
        return grpc.aio.insecure_channel(address, options=arguments)
    return grpc.aio.secure_channel(address, channel_credentials(tls), options=arguments)


def open_sync_channel(
    address: str, *, tls: TlsMaterial | None = None, insecure: bool = False, options: Sequence[Option] | None = None
) -> grpc.Channel:
    """Return a blocking channel to ``host:port``, by default a client's; raises as ``open_channel``."""
    host, _ = split_address(address)
    require_protection(host, protected=tls is not None, insecure=insecure, what="the connection to the server")
    arguments = list(client_options() if options is None else options)
    if tls is None:
        return grpc.insecure_channel(address, options=arguments)
    return grpc.secure_channel(address, channel_credentials(tls), options=arguments)


def bind(server: grpc.aio.Server, address: str, *, load_tls: Callable[[], TlsMaterial] | None) -> int:
    """Bind ``server`` to ``host:port`` (port 0 = any) and return the port.

    Raises EnvironmentProblem when the port is taken or the address is not one of this machine.
    """
    host, port = split_address(address)
    try:
        if load_tls is None:
            bound = server.add_insecure_port(address)
        else:
            bound = server.add_secure_port(address, server_credentials(load_tls))
    except RuntimeError as error:
        raise _bind_problem(host, port) from error
    if bound == 0:
        raise _bind_problem(host, port)
    return bound


def _bind_problem(host: str, port: int) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"can't listen on port {port} of {host}: it is in use, or the address is not one of this machine",
        remedy=f"stop what uses port {port} (`ss -ltnp 'sport = :{port}'` shows it), or choose another port; "
        "0 takes any free one",
    )
