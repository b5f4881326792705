"""Addresses, deadlines and options: small pure parts."""

import math

import pytest

from tandem.core.errors import ConfigError
from tandem.rpc.addresses import is_loopback, join_address, require_protection, split_address
from tandem.rpc.channels import INTERNAL_LIMITS, ServerLimits, client_options, server_options
from tandem.rpc.deadline import usable_s


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", "localhost.example.org", "", "127.0.0"])
def test_not_loopback(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [("127.0.0.1:50051", "127.0.0.1", 50051), ("[::1]:0", "::1", 0), ("name:65535", "name", 65535)],
)
def test_split_and_join(address: str, host: str, port: int) -> None:
    assert split_address(address) == (host, port)
    assert join_address(host, port) == address


@pytest.mark.parametrize("address", ["", "host", ":1", "host:", "host:x", "host:65536", "host:-1", "host:1.5"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ConfigError, match="host:port"):
        split_address(address)


def test_plain_text_needs_loopback_or_a_word() -> None:
    require_protection("127.0.0.1", protected=False, insecure=False, what="x")
    require_protection("10.0.0.1", protected=True, insecure=False, what="x")
    require_protection("10.0.0.1", protected=False, insecure=True, what="x")
    for host in ("10.0.0.1", "0.0.0.0", "::", "example.org"):
        with pytest.raises(ConfigError, match="--insecure"):
            require_protection(host, protected=False, insecure=False, what="x")


@pytest.mark.parametrize(
    ("remaining_s", "usable"),
    [(None, None), (1e12, None), (math.inf, None), (10.0, 9.85), (0.1, 0.089), (0.0, 0.0), (-3.0, 0.0)],
)
def test_usable_deadline(remaining_s: float | None, usable: float | None) -> None:
    found = usable_s(remaining_s)
    assert found == (None if usable is None else pytest.approx(usable))


def test_options_hold_the_promised_limits() -> None:
    public, internal = dict(server_options(ServerLimits())), dict(server_options(INTERNAL_LIMITS))
    assert public["grpc.so_reuseport"] == internal["grpc.so_reuseport"] == 0
    assert public["grpc.max_receive_message_length"] == 1024 * 1024
    assert public["grpc.max_concurrent_streams"] == 128
    assert public["grpc.max_metadata_size"] == 8 * 1024
    assert public["grpc.max_connection_age_ms"] == 30 * 60 * 1000
    assert "grpc.max_connection_age_ms" not in internal
    for options in (public, internal, dict(client_options())):
        assert (options["grpc.keepalive_time_ms"], options["grpc.keepalive_timeout_ms"]) == (10_000, 6_000)
    # A server must bear the pings that our own clients send.
    assert int(public["grpc.http2.min_ping_interval_without_data_ms"]) < 10_000
