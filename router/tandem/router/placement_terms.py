"""The terms of placement: what a request needs, what a worker offers, which knobs there are, what is chosen. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from tandem.core.latency import LatencyModel
from tandem.core.types import Role
from tandem.router.actions import Pair, WorkerKey


class PlacementMode(StrEnum):
    """Which of the two ways placement may take."""

    AUTO = "auto"
    SPLIT = "split"  # always a pair: for comparisons
    AGGREGATED = "aggregated"  # always local: the baseline without a prefill pool


class PlacementCause(StrEnum):
    """Why a request is computed where it is: by a pair, or by its decode worker alone."""

    PAIR = "pair"
    HELD = "held_by_prefill_worker"  # a pair, for the second time
    MODE = "aggregated_mode"
    SEVERAL_SEQUENCES = "several_sequences"
    PAIRS_FAIL = "pairs_fail"
    NO_PREFILL_WORKER = "no_prefill_worker"
    SHORT_PROMPT = "short_prompt"
    LOCAL_IS_FASTER = "local_is_faster"
    BORROWED = "borrowed"  # the controller lends decode workers to the prefill pool

    @property
    def is_split(self) -> bool:
        """Whether KV is handed over."""
        return self in (PlacementCause.PAIR, PlacementCause.HELD)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementPolicy:
    """Knobs of the choice."""

    mode: PlacementMode = PlacementMode.AUTO
    look_ahead_s: float = 0.25
    min_gain_s: float = 0.005
    itl_weight: float = 0.25
    prefill_chunk_s: float = 0.05
    min_split_tokens: int = 0
    affinity: float = 1.0
    affinity_per_waiting: float = 3.0
    max_affinity_s: float = 0.25
    max_affinity_share: float = 1.0
    borrow_share: float = 0.0  # of the prompts, computed by decode workers because a controller said so
    tie_share: float | None = 0.02  # costs within this share of the lowest count as equal; None = names decide


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """One worker that takes work, as placement sees it."""

    key: WorkerKey
    role: Role
    model: LatencyModel
    block_size: int
    total_blocks: int
    free_blocks: int
    max_sequences: int
    num_sequences: int
    context_tokens: int
    queued_prefill_s: float
    kv_bytes_per_token: float = 0.0  # as seen in hand-overs; 0 until the first
    layout_fingerprint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedPrefix:
    """Leading prompt tokens that a worker need not compute, and how long it takes to bring them to its device."""

    num_tokens: int
    fetch_s: float = 0.0
    num_slow_tokens: int = 0  # of them, those in a slower tier: a hand-over brings these all the same


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a request needs. ``growth_tokens`` is the expected output per sequence."""

    num_prompt_tokens: int  # with the tokens already emitted, when it is continued
    num_sequences: int
    growth_tokens: int
    avoid: frozenset[WorkerKey] = field(default_factory=frozenset)
    avoid_pairs: frozenset[Pair] = field(default_factory=frozenset)
    only_local: bool = False
    cached: Mapping[WorkerKey, CachedPrefix] = field(default_factory=dict)
    num_waiting: int = 0  # other requests in the router's queue
    draw: int | None = None  # a random number that decides between equals; None = their names do
    reserved: WorkerKey | None = None  # the one prefill worker that may take it: all routers have agreed on it


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One worker, and what it would cost the request there."""

    worker: WorkerView
    cost_s: float
    delay_s: float = 0.0  # what others lose; counts in the choice, not in the prediction


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighed:
    """All that a choice was made from, each the best first: for whoever asks later why."""

    demand: Demand
    prefills: Sequence[Option] = ()
    decodes: Sequence[Option] = ()  # with room
    locals: Sequence[Option] = ()  # the same workers, were they to compute the prompt themselves


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """The routers' shared reservations were asked: what this router would have chosen alone, and how long it took."""

    own: WorkerKey
    asked_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """The choice, and why. ``prefill`` is None when D computes the prompt itself."""

    prefill: WorkerKey | None
    decode: WorkerKey
    reason: str
    cause: PlacementCause
    predicted_ttft_s: float
    predicted_prefill_s: float
    num_blocks: int
    weighed: Weighed | None = field(default=None, compare=False, repr=False)
    shared: Shared | None = None  # None = nobody was asked, or nobody answered


@dataclass(frozen=True, slots=True, kw_only=True)
class NoCapacity:
    """Nothing can take the request now. ``never`` says why no worker of this fleet could, however idle.

    With ``waits_for`` the request waits for the prefill worker that it likes best, although another has credit; it
    will bring ``work_s`` seconds of work there. With ``lacks_room`` it waits for a slot or blocks of a decode worker.
    """

    reason: str
    never: str = ""  # from ``tandem.core.reasons``
    waits_for: WorkerKey | None = None
    work_s: float = 0.0
    lacks_room: bool = False
