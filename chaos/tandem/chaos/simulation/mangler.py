"""What a hostile link does to KV frames: delay, duplicate, reorder, hold, spoil, lose, and say old things again."""

from collections import deque
from dataclasses import dataclass
from typing import Any

from tandem.chaos.simulation.network import Arrival, Pipe
from tandem.chaos.simulation.process import Process
from tandem.chaos.simulation.world import World
from tandem.kvtransfer.codec import FrameType

_TYPE_AT = 5
_STASHED = 64
_REPLAYABLE = frozenset({FrameType.OPEN.value, FrameType.CHUNK.value, FrameType.SEAL.value})


@dataclass(slots=True, kw_only=True)
class Rates:
    """Chance per frame of each kind of trouble."""

    kv_delay: float = 0.0
    kv_duplicate: float = 0.0
    kv_reorder: float = 0.0
    kv_hold: float = 0.0
    kv_corrupt: float = 0.0
    kv_drop: float = 0.0
    kv_replay: float = 0.0
    lost_commit_ack: float = 0.0


class Mangler:
    """``Network.mangle``. Kinds are drawn one after another; the first that strikes decides."""

    def __init__(self, world: World, rates: Rates) -> None:
        self._world = world
        self._rates = rates
        self._stash: dict[str, deque[bytes]] = {}
        self._first: dict[str, list[bytes]] = {}  # the first that was said to this life
        self._old: dict[str, list[bytes]] = {}  # and to the one before: its generations come again
        self._lives: dict[str, Process] = {}

    def __call__(self, pipe: Pipe[Any], frame: bytes) -> list[Arrival]:
        """Return what arrives of ``frame``."""
        rates, world, kind = self._rates, self._world, frame[_TYPE_AT]
        rng = world.rng
        stash = self._stash_for(pipe.target)
        if kind in _REPLAYABLE:
            stash.append(frame)
            if len(self._first[pipe.target.name]) < _STASHED:
                self._first[pipe.target.name].append(frame)
        arrivals = [Arrival(frame)]
        if kind == FrameType.COMMIT_ACK.value and self._strikes("lost_commit_ack", rates.lost_commit_ack):
            return []
        if self._strikes("kv_drop", rates.kv_drop):
            return []
        if self._strikes("kv_corrupt", rates.kv_corrupt):
            spoilt = bytearray(frame)
            spoilt[rng.randrange(len(spoilt))] ^= 1 << rng.randrange(8)
            return [Arrival(bytes(spoilt))]
        if self._strikes("kv_hold", rates.kv_hold):
            return [Arrival(frame, rng.uniform(0.5, 12.0), overtakes=True)]
        if self._strikes("kv_reorder", rates.kv_reorder):
            return [Arrival(frame, rng.uniform(1e-3, 0.05), overtakes=True)]
        if self._strikes("kv_delay", rates.kv_delay):
            arrivals = [Arrival(frame, rng.uniform(0.01, 1.0))]
        if self._strikes("kv_duplicate", rates.kv_duplicate):
            arrivals.append(Arrival(frame, rng.choice((0.0, 0.01, 1.0)), overtakes=True))
        if stash and self._strikes("kv_replay", rates.kv_replay):
            old = self._old.get(pipe.target.name)
            arrivals.append(Arrival(rng.choice(old if old and world.chance(0.5) else stash)))
        return arrivals

    def _stash_for(self, target: Process) -> deque[bytes]:
        name = target.name
        if self._lives.get(name) is not target:
            self._lives[name] = target
            self._old[name] = self._first.get(name, [])
            self._first[name] = []
            self._stash[name] = deque(maxlen=_STASHED)
        return self._stash[name]

    def _strikes(self, kind: str, rate: float) -> bool:
        if not self._world.chance(rate):
            return False
        self._world.hit(kind)
        return True
