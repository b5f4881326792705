"""A dispatcher whose placements wait for shared reservations, for tests."""

from tandem.core.latency import LatencyCoefficients
from tandem.core.messages import StartPrefill
from tandem.core.types import FinishReason, GenerationTask
from tandem.router.actions import WorkerKey
from tandem.router.live import DispatcherPolicy
from tandem.router.observer import SilentObserver
from tandem.router.placement import Placement, PlacementMode, PlacementPolicy
from tandem.router.sharing import SharingMode, SharingPolicy
from tests.fakes.reserver import FakeReserver
from tests.unit.router.builders import P2, D, P
from tests.unit.router.world import World, done, handed, token

ON = SharingPolicy(mode=SharingMode.ON)


class Seen(SilentObserver):
    """What the dispatcher says of reservations and placements."""

    def __init__(self) -> None:
        self.outcomes: list[tuple[str, float]] = []
        self.placements: list[Placement] = []

    def reserved(self, task: GenerationTask, *, outcome: str, waited_s: float) -> None:
        self.outcomes.append((outcome, round(waited_s, 6)))

    def placed(self, task: GenerationTask, placement: Placement, *, waited_s: float) -> None:
        self.placements.append(placement)


def world(
    *workers: WorkerKey,
    reserver: FakeReserver,
    sharing: SharingPolicy = ON,
    max_sequences: int = 8,
    look_ahead_s: float = 10.0,
) -> World:
    """A prefill takes 0.1 s; without a draw, prefill-0 is the first of equals."""
    placement = PlacementPolicy(mode=PlacementMode.SPLIT, tie_share=None, look_ahead_s=look_ahead_s)
    policy = DispatcherPolicy(placement=placement, sharing=sharing)
    made = World(
        *(workers or (P, P2, D)), policy=policy, reserver=reserver, max_sequences=max_sequences, observer=Seen()
    )
    for record in made.dispatcher.fleet.records():
        record.profile(LatencyCoefficients(prefill=(0.1, 0.0, 0.0), step=(0.02, 0.0, 0.0), transfer=(0.0, 0.0)))
    return made


def seen(made: World) -> Seen:
    found = made.dispatcher._observer
    assert isinstance(found, Seen)
    return found


def prefilled(made: World) -> list[tuple[str, str]]:
    return [(w.worker_id, c.task.request_id) for w, c in made.sent if isinstance(c, StartPrefill)]


def finish(made: World, name: str, prefill: WorkerKey, decode: WorkerKey = D, attempt: int = 0) -> None:
    made.report(prefill, events=(done(name, attempt),), tokens=(token(0, name, attempt=attempt),))
    made.report(decode, events=(handed(name, attempt),))
    made.report(decode, tokens=(token(1, name, attempt=attempt, finish=FinishReason.STOP),))
