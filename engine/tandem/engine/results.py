"""What one engine step brought about, as plain values for the worker around the engine."""

from dataclasses import dataclass, field, replace

from tandem.core.blocks import AttemptKey, BlockRef, FirstToken
from tandem.core.messages import RequestEvent
from tandem.core.types import TokenDelta


@dataclass(frozen=True, slots=True, kw_only=True)
class FilledBlocks:
    """Blocks of a prompt whose KV became complete: they may be pinned and sent from now on."""

    key: AttemptKey
    first_ordinal: int  # place of refs[0] in the prompt, in blocks
    refs: tuple[BlockRef, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """Blocks for the KV of a hand-over, in token order; the first ``num_cached`` are here already."""

    refs: tuple[BlockRef, ...]
    num_cached: int

    @property
    def missing(self) -> tuple[BlockRef, ...]:
        """Blocks that a peer is to fill."""
        return self.refs[self.num_cached :]


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedPrefill:
    """A prompt whose KV is complete and whose first tokens are sampled. Its blocks stay until ``Engine.release``.

    The KV covers ``num_tokens`` tokens: the prompt and, in a recovery, what was emitted; never the first token.
    """

    key: AttemptKey
    num_blocks: int
    num_tokens: int
    first_tokens: tuple[FirstToken, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStats:
    """What one forward pass computed and how long the step took: food for the latency model.

    ``num_cached_tokens`` = tokens before this step's prompt chunks; ``num_context_tokens`` = KV read by decode rows.
    """

    wall_s: float = 0.0
    num_prefill_sequences: int = 0
    num_prefill_tokens: int = 0
    num_cached_tokens: int = 0
    num_decode_rows: int = 0
    num_context_tokens: int = 0
    num_preempted: int = 0

    def timed(self, wall_s: float) -> "StepStats":
        """Return the same with the step's wall time."""
        return replace(self, wall_s=wall_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """Everything one step brought about. ``events`` come before ``tokens``, ``filled`` before ``sealed``.

    AttemptReleased tells of attempts that ended by themselves, one step after their last token; what a command ended
    (abort, release) is told by the command's result alone.
    """

    tokens: tuple[TokenDelta, ...] = ()
    events: tuple[RequestEvent, ...] = ()
    filled: tuple[FilledBlocks, ...] = ()
    sealed: tuple[SealedPrefill, ...] = ()
    stats: StepStats = field(default_factory=StepStats)
