"""What the request ledger asks its surroundings to do. Plain values; the dispatcher carries them out.

A delta to forward to the client is the ``TokenDelta`` itself: it is the one action of the hot path.
"""

from dataclasses import dataclass

from tandem.core.errors import TandemError
from tandem.core.ids import Epoch, WorkerId
from tandem.core.messages import Command
from tandem.core.types import GenerationTask, Outcome, PhaseTimings, TokenDelta, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerKey:
    """One life of one worker; a restarted process has the same ``worker_id`` and another ``epoch``."""

    worker_id: WorkerId
    epoch: Epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A prefill and a decode worker, between which KV is handed over."""

    prefill: WorkerKey
    decode: WorkerKey


@dataclass(frozen=True, slots=True, kw_only=True)
class SendCommand:
    """Say ``command`` to ``worker``, if that life of it is still attached."""

    worker: WorkerKey
    command: Command


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptComputed:
    """The prompt's work on ``worker`` is over: take it off that worker's in-flight estimate."""

    worker: WorkerKey
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptEnded:
    """The attempt is over on every worker in ``workers``: take it off their in-flight estimates."""

    workers: tuple[WorkerKey, ...]
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Requeue:
    """Place ``task`` (a later attempt of the same request) again, ahead of the queue, after ``delay_s``.

    Workers in ``avoid`` are taken only if nobody else can, pairs in ``avoid_pairs`` never. ``worker`` failed or told of
    the failure; with ``lost`` it died or its stream broke; with ``keeps_kv`` the prefill worker still holds its KV.
    """

    task: GenerationTask
    reason: str
    avoid: frozenset[WorkerKey]
    avoid_pairs: frozenset[Pair]
    delay_s: float
    worker: WorkerKey | None = None
    lost: bool = False
    keeps_kv: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PairWorked:
    """A hand-over came through."""

    pair: Pair


@dataclass(frozen=True, slots=True, kw_only=True)
class PairFailed:
    """A hand-over failed, for ``reason``."""

    pair: Pair
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The prompt is computed: tell the client, once."""

    num_prompt_tokens: int
    num_cached_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The one terminal action of a request. ``error`` is None exactly when the outcome is OK."""

    outcome: Outcome
    error: TandemError | None
    usage: Usage
    timings: PhaseTimings
    prefill_worker_id: str
    decode_worker_id: str
    num_attempts: int


RareAction = PromptComputed | AttemptEnded | Requeue | PairWorked | PairFailed | Started | Ended
Action = TokenDelta | SendCommand | RareAction
