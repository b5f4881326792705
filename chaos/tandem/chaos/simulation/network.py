"""Wires between processes: ordered connections over paths that can be slow, cut one way or both, and mangled."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, TypeVar

from tandem.chaos.simulation.process import Process
from tandem.chaos.simulation.world import World

_T = TypeVar("_T")
KEEPALIVE_S = 15.0
_KEEPALIVE_CHECK_S = 2.5


class Plane(StrEnum):
    """What a path carries."""

    ATTACH = "attach"
    KV = "kv"


@dataclass(slots=True, kw_only=True)
class Path:
    """One direction between two hosts on one plane."""

    delay_s: float
    jitter_s: float
    is_cut: bool = False
    extra_s: float = 0.0
    troubled_at_s: float = float("-inf")  # last change for the worse or the better
    waiting: "list[Pipe[Any]]" = field(default_factory=list)


class Network:
    """All paths. ``mangle`` sees every KV frame and says what arrives instead of it, and how much later."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._paths: dict[tuple[str, str, Plane], Path] = {}
        self.mangle: Callable[[Pipe[Any], bytes], list[Arrival]] | None = None

    def path(self, source: str, target: str, plane: Plane) -> Path:
        """Return the path between two hosts; made at its first use."""
        key = (source, target, plane)
        path = self._paths.get(key)
        if path is None:
            rng = self.world.rng
            path = self._paths[key] = Path(delay_s=rng.uniform(1e-4, 2e-3), jitter_s=rng.uniform(0.0, 1e-3))
        return path

    def paths(self, plane: Plane) -> list[tuple[str, str]]:
        """Return the pairs of hosts that have talked on a plane, ordered."""
        return sorted((source, target) for source, target, on in self._paths if on is plane)

    def cut(self, source: str, target: str, plane: Plane) -> None:
        """Let nothing through from ``source`` to ``target``; what is sent waits (as TCP would send it again)."""
        path = self.path(source, target, plane)
        path.is_cut, path.troubled_at_s = True, self.world.now_s

    def slow(self, source: str, target: str, plane: Plane, extra_s: float) -> None:
        """Have everything take ``extra_s`` longer."""
        path = self.path(source, target, plane)
        path.extra_s, path.troubled_at_s = extra_s, self.world.now_s

    def heal(self, source: str, target: str, plane: Plane) -> None:
        """Let everything through again; what waited arrives now."""
        path = self.path(source, target, plane)
        if path.is_cut or path.extra_s:
            path.troubled_at_s = self.world.now_s
        path.is_cut, path.extra_s = False, 0.0
        waiting, path.waiting = path.waiting, []
        for pipe in waiting:
            pipe.flush()

    def heal_all(self) -> None:
        """End every trouble of every path."""
        for source, target, plane in list(self._paths):
            self.heal(source, target, plane)

    def is_well(self, one: str, other: str, plane: Plane, *, for_s: float) -> bool:
        """Whether both directions have been without trouble for so long."""
        since_s = self.world.now_s - for_s
        paths = (self.path(one, other, plane), self.path(other, one, plane))
        return not any(path.is_cut or path.extra_s or path.troubled_at_s >= since_s for path in paths)

    def is_whole(self, one: str, other: str, plane: Plane) -> bool:
        """Whether both directions work."""
        return not (self.path(one, other, plane).is_cut or self.path(other, one, plane).is_cut)


@dataclass(slots=True)
class Arrival:
    """What arrives of one frame, so much later than it would; out of order if ``overtakes``."""

    frame: bytes
    delay_s: float = 0.0
    overtakes: bool = False


class Pipe(Generic[_T]):
    """One direction of a connection: what goes in comes out in order, whole, later; or never."""

    def __init__(self, network: Network, source: str, target: Process, plane: Plane) -> None:
        self.source = source
        self.target = target
        self.plane = plane
        self.receive: Callable[[_T], None] = lambda _: None
        self.is_closed = False
        self._network = network
        self._path = network.path(source, target.name, plane)
        self._held: list[_T] = []
        self._due_s = 0.0

    def send(self, item: _T, delay_s: float = 0.0) -> None:
        """Send ``item``; it leaves after ``delay_s``."""
        if self.is_closed:
            return
        if self._path.is_cut:
            if not self._held:
                self._path.waiting.append(self)
            self._held.append(item)
            return
        self._deliver(item, delay_s)

    def send_beside(self, item: _T, delay_s: float) -> None:
        """Send without regard to the order: what is late comes late, what follows may overtake it."""
        if not self.is_closed:
            due_s = self._network.world.now_s + self._transit_s() + delay_s
            self._network.world.at(due_s, lambda: self._arrive(item))

    def flush(self) -> None:
        """Send what a cut has held back."""
        held, self._held = self._held, []
        for item in held:
            self.send(item)

    def close(self) -> None:
        """Nothing that is on its way arrives any more."""
        self.is_closed = True
        self._held.clear()

    def _transit_s(self) -> float:
        path = self._path
        return path.delay_s + path.extra_s + path.jitter_s * self._network.world.rng.random()

    def _deliver(self, item: _T, delay_s: float) -> None:
        world = self._network.world
        self._due_s = max(self._due_s, world.now_s + delay_s + self._transit_s())
        world.at(self._due_s, lambda: self._arrive(item))

    def _arrive(self, item: _T) -> None:
        if self._path.is_cut and not self.is_closed:
            self.send(item)  # it was on its way when the path was cut
            return
        self.target.call(lambda: None if self.is_closed else self.receive(item))


@dataclass(slots=True, eq=False)
class End:
    """One side of a connection. ``on_closed`` is called once, when this side learns that it is over."""

    process: Process
    on_closed: Callable[[], None] = lambda: None
    is_open: bool = True

    def learn(self) -> None:
        """This side gets to know."""
        if self.is_open:
            self.is_open = False
            self.process.call(self.on_closed)


class Connection:
    """Two pipes with one fate. A dead process's side is closed by its kernel; keepalive finds silence."""

    def __init__(self, network: Network, one: Process, other: Process, plane: Plane, *, keepalive: bool) -> None:
        self.one, self.other = End(one), End(other)
        self.plane = plane
        self._network = network
        self.to_other: Pipe[bytes] = Pipe(network, one.name, other, plane)
        self.to_one: Pipe[bytes] = Pipe(network, other.name, one, plane)
        self._silent_since_s: float | None = None
        one.at_death(lambda: self.close(self.one))
        other.at_death(lambda: self.close(self.other))
        if keepalive:
            network.world.after(_KEEPALIVE_CHECK_S, self._check)

    @property
    def is_open(self) -> bool:
        """Whether any side still believes in it."""
        return self.one.is_open or self.other.is_open

    def close(self, by: End) -> None:
        """``by`` ends it; the other side learns it as soon as the path lets it."""
        if not by.is_open:
            return
        by.is_open = False
        peer, pipe, back = (
            (self.other, self.to_other, self.to_one) if by is self.one else (self.one, self.to_one, self.to_other)
        )
        back.close()
        self._tell(peer, pipe)

    def reset(self) -> None:
        """Both sides lose it at once."""
        self.to_one.close()
        self.to_other.close()
        self.one.learn()
        self.other.learn()

    def _tell(self, peer: End, pipe: Pipe[bytes]) -> None:
        """The farewell comes after the data before it; over a cut path it is sent again until it gets through."""
        world = self._network.world
        path = self._network.path(pipe.source, pipe.target.name, self.plane)

        def arrive() -> None:
            if path.is_cut and peer.is_open:
                world.after(0.5, arrive)
                return
            pipe.close()
            peer.learn()

        world.after(path.delay_s + path.jitter_s + path.extra_s + 1e-4, arrive)

    def _check(self) -> None:
        if not self.is_open:
            return
        world = self._network.world
        is_whole = self._network.is_whole(self.one.process.name, self.other.process.name, self.plane)
        stands = any(
            end.process.paused_since_s is not None or not end.process.is_alive for end in (self.one, self.other)
        )
        if is_whole and not stands:
            self._silent_since_s = None
        elif self._silent_since_s is None:
            self._silent_since_s = world.now_s
        elif world.now_s - self._silent_since_s >= KEEPALIVE_S:
            world.note("network", f"keepalive ends {self.one.process.name} - {self.other.process.name}")
            self.reset()
            return
        world.after(_KEEPALIVE_CHECK_S, self._check)
