"""Faults between namespaces, each seen by a TCP connection that crosses it; a control crosses past it."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Protocol

import pytest

from tandem.chaos.faults.evidence import Evidence
from tandem.chaos.faults.namespaces import NetworkHost, NetworkLab, unavailable
from tandem.chaos.faults.network import NarrowLink, PacketFilter, PulledCable

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=unavailable() or "")

_ECHO = """
import socket, sys, threading
from tandem.chaos.faults.namespaces import enter_namespace
enter_namespace(sys.argv[1])
server = socket.create_server((sys.argv[2], 7000))
print("ready", flush=True)
def serve(connection):
    with connection:
        try:
            while data := connection.recv(65536):
                connection.sendall(data)
        except OSError:
            pass
while True:
    threading.Thread(target=serve, args=server.accept()[:1], daemon=True).start()
"""


class NetworkFault(Protocol):
    def verify(self) -> Evidence: ...
    def end(self) -> None: ...


class Crossing:
    """A lab of two hosts with an echo server in each."""

    def __init__(self, lab: NetworkLab, hosts: list[NetworkHost]) -> None:
        self.lab, self.hosts = lab, hosts

    def dial(self, index: int, timeout_s: float = 3.0) -> socket.socket:
        return socket.create_connection((self.hosts[index].address, 7000), timeout=timeout_s)


def ask(connection: socket.socket, data: bytes = b"hello") -> bytes:
    connection.sendall(data)
    got = b""
    while len(got) < len(data):
        more = connection.recv(65536)
        if not more:
            raise ConnectionError("closed")
        got += more
    return got


@pytest.fixture(scope="module")
def crossing() -> Iterator[Crossing]:
    servers: list[subprocess.Popen[bytes]] = []
    with NetworkLab() as lab:
        try:
            hosts = [lab.add_host(), lab.add_host()]
            for host in hosts:
                command = [sys.executable, "-c", _ECHO, host.name, host.address]
                server = subprocess.Popen(command, stdout=subprocess.PIPE)
                servers.append(server)
                assert server.stdout is not None
                assert server.stdout.readline() == b"ready\n"
            yield Crossing(lab, hosts)
        finally:
            for server in servers:
                server.kill()
                server.communicate()


def other_crosses(crossing: Crossing) -> None:
    """The control: what goes to the other host is not touched."""
    with crossing.dial(1) as connection:
        assert ask(connection) == b"hello"


def test_without_a_fault(crossing: Crossing) -> None:
    for index in (0, 1):
        with crossing.dial(index) as connection:
            assert ask(connection) == b"hello"


def test_drop_both_ways(crossing: Crossing) -> None:
    with crossing.dial(0, timeout_s=0.4) as connection:
        ask(connection)
        with PacketFilter(crossing.hosts[0]) as fault:
            with pytest.raises(TimeoutError):
                ask(connection)
            other_crosses(crossing)
            assert fault.verify().took_effect
        connection.settimeout(5.0)
        assert connection.recv(5) == b"hello", "nothing was lost: TCP sends it again"
    assert fault.verify().took_effect


def test_one_way(crossing: Crossing) -> None:
    with crossing.dial(0, timeout_s=0.4) as connection:
        ask(connection)
        with PacketFilter(crossing.hosts[0], direction="out", peer=crossing.lab.address) as fault:
            with pytest.raises(TimeoutError):
                ask(connection)
            assert fault.verify().took_effect


def test_a_filter_for_somebody_else_does_nothing(crossing: Crossing) -> None:
    with PacketFilter(crossing.hosts[0], peer=crossing.hosts[1].address) as fault:
        with crossing.dial(0) as connection:
            assert ask(connection) == b"hello"
        assert not fault.verify().took_effect
    assert not fault.verify().took_effect


def test_reset(crossing: Crossing) -> None:
    with crossing.dial(0) as connection, PacketFilter(crossing.hosts[0], verdict="reset", direction="in") as fault:
        with pytest.raises(ConnectionError):
            ask(connection)
        assert fault.verify().took_effect
        with pytest.raises(ConnectionError):
            crossing.dial(0)


def test_random_loss_only_slows(crossing: Crossing) -> None:
    with crossing.dial(0, timeout_s=20.0) as connection, PacketFilter(crossing.hosts[0], percent=10) as fault:
        for _ in range(40):
            assert ask(connection) == b"hello"
        assert fault.verify().took_effect


def test_a_pulled_cable(crossing: Crossing) -> None:
    with PulledCable(crossing.hosts[0]) as fault:
        with pytest.raises(OSError, match=r"timed out|No route|unreachable"):
            crossing.dial(0, timeout_s=0.4)
        other_crosses(crossing)
    assert fault.verify().took_effect
    until_s = time.monotonic() + 5.0
    while True:
        try:
            crossing.dial(0, timeout_s=0.5).close()
            break
        except OSError:
            assert time.monotonic() < until_s


def test_a_narrow_link(crossing: Crossing) -> None:
    with NarrowLink(crossing.hosts[0], bits_per_s=1_000_000) as fault:
        with crossing.dial(0, timeout_s=10.0) as connection:
            began_s = time.monotonic()
            ask(connection, bytes(100_000))
            assert time.monotonic() - began_s > 0.4, "100 kB at 1 Mbit/s"
        assert fault.verify().took_effect


def test_a_narrow_link_that_nobody_uses(crossing: Crossing) -> None:
    with NarrowLink(crossing.hosts[0], bits_per_s=1_000_000) as fault:
        other_crosses(crossing)
    assert not fault.verify().took_effect


def test_nothing_is_left_behind() -> None:
    def state() -> str:
        return "".join(
            subprocess.run(command, capture_output=True, text=True, check=True).stdout
            for command in (["ip", "-br", "link"], ["ip", "netns"])
        )

    with NetworkLab() as lab:
        name = lab.add_host().name
        assert name in state()
    assert lab.hosts[0].outer not in state()
    assert name not in state()
