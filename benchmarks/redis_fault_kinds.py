"""What is done to Redis, rows 30 to 35 of the failure modes: each can begin, say whether it took effect, and end.

Blocking, but for what goes on while it lasts: that runs in a thread of its own.
"""

import json
import os
import random
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable

import redis

from benchmarks.redis_target import RedisTarget

_PASSWORD = "changed by the operator"
_PAUSE_MS = 200
_FORGED_AT_ONCE = 60


class RedisFault(ABC):
    """One fault of one server."""

    name: str
    row: int

    def __init__(self, target: RedisTarget) -> None:
        self.target = target
        self.evidence = ""

    @abstractmethod
    def begin(self) -> None:
        """Bring it about."""

    @abstractmethod
    def end(self) -> None:
        """Undo it: Redis is well again when this returns."""

    def look(self) -> None:
        """While it lasts: note what a client meets. Empty evidence means that nothing happened."""
        self.evidence = self.evidence or self.target.symptom()


class Down(RedisFault):
    """The process is gone; its port refuses."""

    name, row = "down", 30

    def begin(self) -> None:
        """Kill it."""
        self.target.stop()

    def end(self) -> None:
        """Start it again, empty."""
        self.target.start()


class Hung(RedisFault):
    """It takes connections and bytes and never answers."""

    name, row = "hung", 31

    def begin(self) -> None:
        """Stop the process."""
        os.kill(self.target.pid, signal.SIGSTOP)

    def end(self) -> None:
        """Let it go on."""
        os.kill(self.target.pid, signal.SIGCONT)


class _Repeating(RedisFault):
    """Something that is done again and again."""

    pause_s = 0.0

    def __init__(self, target: RedisTarget) -> None:
        super().__init__(target)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=self.name)
        self.num_done = 0

    def begin(self) -> None:
        """Start doing it."""
        self._thread.start()

    def end(self) -> None:
        """Stop doing it."""
        self._is_over.set()
        self._thread.join(timeout=10.0)

    def _run(self) -> None:
        with self.target.admin() as client:
            while not self._is_over.is_set():
                self.once(client)
                self.num_done += 1
                self._is_over.wait(self.pause_s)

    @abstractmethod
    def once(self, client: "redis.Redis") -> None:
        """Do it."""


class Slow(_Repeating):
    """Every command waits for up to 200 ms."""

    name, row = "slow", 31

    def once(self, client: "redis.Redis") -> None:
        """Pause all clients; this command waits for the last pause to end, so one pause follows the other."""
        client.client_pause(_PAUSE_MS, all=True)


class Flushed(_Repeating):
    """Everything in it is lost, five times a second."""

    name, row, pause_s = "flushed", 32, 0.2

    def once(self, client: "redis.Redis") -> None:
        """Lose it."""
        lost = client.dbsize()
        client.flushall()
        if lost:
            self.evidence = f"lost {lost} keys at once, {self.num_done + 1} times"

    def look(self) -> None:
        """What was lost is the evidence."""


class Full(RedisFault):
    """No memory is left, and nothing may be evicted."""

    name, row = "full", 33

    def begin(self) -> None:
        """Set a limit below what is in use."""
        with self.target.admin() as client:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", "1mb")

    def end(self) -> None:
        """Take the limit away."""
        with self.target.admin() as client:
            client.config_set("maxmemory", "0")


class ReadOnly(RedisFault):
    """It has become a replica."""

    name, row = "read-only", 34

    def begin(self) -> None:
        """Make it follow a server that is not there; it keeps what it has."""
        with self.target.admin() as client:
            client.replicaof("127.0.0.1", "1")

    def end(self) -> None:
        """Make it a primary again."""
        with self.target.admin() as client:
            client.replicaof("NO", "ONE")


class WrongAuth(RedisFault):
    """It asks for a password that nobody has."""

    name, row = "wrong password", 30

    def begin(self) -> None:
        """Set one, and end every connection: those that stand would go on being trusted."""
        with self.target.admin() as client:
            client.config_set("requirepass", _PASSWORD)
            client.client_kill_filter(_type="normal", skipme=True)

    def end(self) -> None:
        """Take it away."""
        with self.target.admin(_PASSWORD) as client:
            client.config_set("requirepass", "")


class Forged(_Repeating):
    """Somebody writes: blocks are changed, cut, exchanged, made up; workers register that are not there.

    ``num_forged`` counts cached blocks that were not what they had been when the round was over.
    """

    name, row, pause_s = "forged", 35, 0.3

    def __init__(self, target: RedisTarget) -> None:
        super().__init__(target)
        self._draw = random.Random(35)
        self.num_forged = 0

    def once(self, client: "redis.Redis") -> None:
        """Forge many of the blocks there are, and make up workers."""
        known = sorted(client.scan_iter("*:kv:*", count=1000))
        names = self._draw.sample(known, min(len(known), _FORGED_AT_ONCE))
        values = client.mget(names) if names else []
        genuine = {name: value for name, value in zip(names, values, strict=True) if isinstance(value, bytes) and value}
        for name, value in genuine.items():
            self.num_forged += bool(client.set(name, self._forge(value, list(genuine.values())), xx=True, keepttl=True))
        self._make_up_workers(client)
        self.evidence = f"{self.num_forged} blocks forged" if self.num_forged else ""

    def look(self) -> None:
        """What was written is the evidence."""

    def _make_up_workers(self, client: "redis.Redis") -> None:
        """Register workers that are not there: under genuine workers' addresses, under dead ones, and as rubbish."""
        for name in list(client.scan_iter("*:worker:*", count=1000)):
            record, prefix = client.get(name), name.rpartition(b":")[0].decode()
            if not isinstance(record, bytes) or b"ghost" in name:
                continue
            fields, ghost = json.loads(record), f"ghost-{self._draw.randrange(50)}"
            fields["worker_id"] = ghost
            if self._draw.random() < 0.5:
                fields["address"] = f"127.0.0.1:{self._draw.randrange(1, 1024)}"
            made_up = json.dumps(fields).encode()
            made_up = self._flip(made_up) if self._draw.random() < 0.3 else made_up
            client.set(f"{prefix}:{ghost}", made_up, px=1500)
            client.sadd(f"{prefix}s", ghost)

    def _forge(self, value: bytes, others: list[bytes]) -> bytes:
        kinds: list[Callable[[], bytes]] = [
            lambda: self._flip(value),
            lambda: value[: self._draw.randrange(len(value))],
            lambda: value + b"x",
            lambda: self._draw.choice([other for other in others if other != value] or [b""]),
            lambda: self._draw.randbytes(len(value)),
            lambda: b"",
        ]
        return self._draw.choice(kinds)()

    def _flip(self, value: bytes) -> bytes:
        changed = bytearray(value)
        changed[self._draw.randrange(len(changed))] ^= self._draw.randrange(1, 256)
        return bytes(changed)


FAULTS: tuple[type[RedisFault], ...] = (Down, Hung, Slow, Flushed, Full, ReadOnly, WrongAuth, Forged)
