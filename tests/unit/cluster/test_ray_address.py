"""Whether anybody listens at a Ray's address: told soon, and only where the address says so."""

import socket
import threading
import time

import pytest

from tandem.cluster.runtime.ray_address import require_listener


@pytest.mark.parametrize("address", ["auto", "local", "ray://10.1.2.3:10001", "10.1.2.3", ":6379"])
def test_what_is_no_host_and_port_is_left_to_ray(address: str) -> None:
    require_listener(address, limit_s=0.0)


def test_a_listener_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        require_listener(f"127.0.0.1:{server.getsockname()[1]}", limit_s=1.0)


def test_nobody_is_told_within_the_limit() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        began_s = time.monotonic()
        with pytest.raises(ConnectionRefusedError):
            require_listener(f"127.0.0.1:{nobody.getsockname()[1]}", limit_s=0.3)
        assert time.monotonic() - began_s < 5.0


def test_a_head_that_is_just_being_started_is_waited_for() -> None:
    with socket.socket() as late:
        late.bind(("127.0.0.1", 0))
        timer = threading.Timer(0.3, late.listen)
        timer.start()
        require_listener(f"127.0.0.1:{late.getsockname()[1]}", limit_s=10.0)
        timer.join()
