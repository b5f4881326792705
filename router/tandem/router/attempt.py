"""One attempt of one request: which workers run it and how far each of them is. Zero I/O."""

from enum import StrEnum

from tandem.core.messages import Command, ForwardGrant, ReserveDecode, StartPrefill
from tandem.core.types import GenerationTask, KvSource
from tandem.router.actions import SendCommand, WorkerKey


class Stage(StrEnum):
    """Where a request is. Terminal states are final."""

    NEW = "new"
    ADMITTED = "admitted"  # waits in the queue
    PREFILLING = "prefilling"
    SEALED = "sealed"  # the prompt is computed at P, no grant has come yet
    HANDING = "handing"  # the prompt is computed at P and D has granted blocks
    DECODING = "decoding"
    ENDED = "ended"


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
        "task",
    )

    def __init__(self, task: GenerationTask, *, prefill: WorkerKey | None, decode: WorkerKey) -> None:
        self.task = task
        self.number = task.attempt
        self.prefill = prefill
        self.decode = decode
        self.open_sides: set[WorkerKey] = {decode} if prefill is None else {prefill, decode}
        self.prompt_computed = False
        self.grant: bytes | None = None
        self.released_at_s: float | None = None

    @property
    def workers(self) -> tuple[WorkerKey, ...]:
        """Every worker named in this attempt; P first."""
        return (self.decode,) if self.prefill is None else (self.prefill, self.decode)

    def names(self, worker: WorkerKey) -> bool:
        """Whether ``worker`` (in that life) has a part in this attempt."""
        return worker is self.decode or worker in (self.decode, self.prefill)

    def start_commands(self) -> list[SendCommand]:
        """What tells both sides to begin; P first, because the first token waits for P and for nothing else."""
        if self.prefill is None:
            return [self._send(self.decode, ReserveDecode(task=self.task, source=KvSource.LOCAL))]
        return [
            self._send(self.prefill, StartPrefill(task=self.task)),
            self._send(self.decode, ReserveDecode(task=self.task, source=KvSource.HANDOVER)),
        ]

    def take_grant(self, grant: bytes) -> list[SendCommand]:
        """Forward D's grant to P; a repeated grant of the same attempt goes nowhere."""
        if self.grant is not None or self.prefill is None or self.prefill not in self.open_sides:
            return []
        self.grant = grant
        command = ForwardGrant(request_id=self.task.request_id, attempt=self.number, grant=grant)
        return [self._send(self.prefill, command)]

    @staticmethod
    def _send(worker: WorkerKey, command: Command) -> SendCommand:
        return SendCommand(worker=worker, command=command)
