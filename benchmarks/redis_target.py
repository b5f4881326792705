"""One Redis that faults are done to: started and killed on one port, and what an operator sees of it."""

import contextlib
import time
from collections.abc import Iterator

import redis

from tests.fakes.redis_server import RedisServer, free_port, redis_server

_ADMIN_TIMEOUT_S = 5.0
_PROBE_TIMEOUT_S = 0.1


class RedisTarget:
    """Use as a context manager. Blocking; what takes long is called in a thread."""

    def __init__(self, flavour: str) -> None:
        self.flavour = flavour
        self.port = free_port()
        self._stack = contextlib.ExitStack()
        self._server: RedisServer | None = None

    @property
    def url(self) -> str:
        """Where clients reach it."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """Of the running server. Raises RuntimeError while there is none."""
        if self._server is None:
            raise RuntimeError("the server does not run")
        return self._server.process.pid

    def start(self) -> None:
        """Start it, empty, on its port."""
        self._server = self._stack.enter_context(redis_server(self.flavour, port=self.port))

    def stop(self) -> None:
        """Kill it; its port refuses connections from now on."""
        self._stack.close()
        self._server = None

    @contextlib.contextmanager
    def admin(self, password: str | None = None) -> Iterator["redis.Redis"]:
        """Yield a connection of the operator's."""
        with redis.Redis(port=self.port, password=password, socket_timeout=_ADMIN_TIMEOUT_S) as client:
            yield client

    def version(self) -> str:
        """What it calls itself."""
        with self.admin() as client:
            facts = client.info("server")
        return f"{self.flavour} {facts.get('valkey_version') or facts.get('redis_version')}"

    def symptom(self) -> str:
        """What a new client meets now: "" where all is well, else the kind of trouble. Takes at most 0.2 s."""
        began_s = time.monotonic()
        try:
            with redis.Redis(
                port=self.port, socket_timeout=_PROBE_TIMEOUT_S, socket_connect_timeout=_PROBE_TIMEOUT_S
            ) as client:
                client.set("symptom", "x" * 4096, px=1000)
        except redis.RedisError as error:
            return type(error).__name__
        took_s = time.monotonic() - began_s
        return f"slow: {1e3 * took_s:.0f} ms" if took_s > _PROBE_TIMEOUT_S / 2 else ""

    def __enter__(self) -> "RedisTarget":
        """Start it."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.stop()
