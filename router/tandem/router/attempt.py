"""One attempt of one request: which workers run it and how far each of them is. Zero I/O."""

from dataclasses import dataclass
from enum import StrEnum

from tandem.core import reasons
from tandem.core.messages import Command, ForwardGrant, ReserveDecode, StartPrefill
from tandem.core.types import GenerationTask, KvSource
from tandem.router.actions import Pair, SendCommand, WorkerKey
from tandem.router.recovery import GAP, PAIR_FAILURES, REUSABLE, Failure


class Stage(StrEnum):
    """Where a request is. Terminal states are final."""

    NEW = "new"
    ADMITTED = "admitted"  # waits in the queue
    PREFILLING = "prefilling"
    SEALED = "sealed"  # the prompt is computed at P, no grant has come yet
    HANDING = "handing"  # the prompt is computed at P and D has granted blocks
    DECODING = "decoding"
    ENDED = "ended"

    @property
    def phase(self) -> str:
        """The same in a caller's words: queue, prefill, transfer or decode."""
        return _PHASES.get(self, "queue")


_PHASES = {
    Stage.PREFILLING: "prefill",
    Stage.SEALED: "transfer",
    Stage.HANDING: "transfer",
    Stage.DECODING: "decode",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """P still has the KV of an earlier attempt, for a while, and was not told to let go."""

    worker: WorkerKey
    attempt: int


class Attempt:
    """State of the attempt that runs now. ``open_sides`` are the workers that may still hold something of it."""

    __slots__ = (
        "decode",
        "grant",
        "number",
        "open_sides",
        "prefill",
        "prompt_computed",
        "released_at_s",
        "reuse_attempt",
        "task",
    )

    def __init__(
        self, task: GenerationTask, *, prefill: WorkerKey | None, decode: WorkerKey, reuse_attempt: int | None = None
    ) -> None:
        self.task = task
        self.number = task.attempt
        self.prefill = prefill
        self.decode = decode
        self.open_sides: set[WorkerKey] = {decode} if prefill is None else {prefill, decode}
        self.reuse_attempt = reuse_attempt  # P hands over what it holds of that attempt and computes nothing
        self.prompt_computed = False
        self.grant: bytes | None = None
        self.released_at_s: float | None = None

    @property
    def workers(self) -> tuple[WorkerKey, ...]:
        """Every worker named in this attempt; P first."""
        return (self.decode,) if self.prefill is None else (self.prefill, self.decode)

    @property
    def pair(self) -> Pair | None:
        """Whose hand-over this attempt needs; None when D computes the prompt itself."""
        return None if self.prefill is None else Pair(prefill=self.prefill, decode=self.decode)

    def is_computed_by(self, worker: WorkerKey, *, decoding: bool) -> bool:
        """Whether this attempt may be part of a forward step that runs on ``worker`` now, as far as can be known.

        Once P has computed the prompt for a grant, D may have it all and be at its first step without anybody having
        heard of it: who dies there takes the news along.
        """
        if worker == self.decode:
            return decoding or self.prefill is None or (self.grant is not None and self._is_whole_at_prefill)
        return worker == self.prefill and not self.prompt_computed and self.reuse_attempt is None

    @property
    def _is_whole_at_prefill(self) -> bool:
        return self.prompt_computed or self.reuse_attempt is not None

    def names(self, worker: WorkerKey) -> bool:
        """Whether ``worker`` (in that life) has a part in this attempt."""
        return worker is self.decode or worker in (self.decode, self.prefill)

    def start_commands(self) -> list[SendCommand]:
        """What tells both sides to begin; P first, because the first token waits for P and for nothing else."""
        if self.prefill is None:
            return [self._send(self.decode, ReserveDecode(task=self.task, source=KvSource.LOCAL))]
        return [
            self._send(self.prefill, StartPrefill(task=self.task, reuse_attempt=self.reuse_attempt)),
            self._send(self.decode, ReserveDecode(task=self.task, source=KvSource.HANDOVER)),
        ]

    def take_grant(self, grant: bytes) -> list[SendCommand]:
        """Forward D's grant to P; a repeated grant of the same attempt goes nowhere."""
        if self.grant is not None or self.prefill is None or self.prefill not in self.open_sides:
            return []
        self.grant = grant
        command = ForwardGrant(request_id=self.task.request_id, attempt=self.number, grant=grant)
        return [self._send(self.prefill, command)]

    def to_avoid(self, failure: Failure, source: WorkerKey) -> set[WorkerKey]:
        """Whom the next attempt had better not go to.

        Whoever misses its peer says that the *peer* may be gone; a missing token does not tell whose fault it is; bad
        KV and KV that P no longer has are nobody's.
        """
        if failure.reason == GAP:
            return set(self.workers)
        if failure.reason in (reasons.KV_TIMEOUT, reasons.KV_PEER_LOST):
            return {worker for worker in self.workers if worker != source}
        if failure.reason in PAIR_FAILURES or failure.reason == reasons.KV_NOT_HELD:
            return set()
        return {source}

    def is_kept(self, failure: Failure, source: WorkerKey) -> bool:
        """Whether P has all it has computed, and only D or the way there failed."""
        if self.prefill is None or self.prefill not in self.open_sides:
            return False
        return failure.held if source == self.prefill else failure.lost or failure.reason in REUSABLE

    @staticmethod
    def _send(worker: WorkerKey, command: Command) -> SendCommand:
        return SendCommand(worker=worker, command=command)
