"""An engine that does what a test scripts, for the shell and the roles around the real one."""

from collections.abc import Sequence
from types import SimpleNamespace

from tandem.core.blocks import AttemptKey, BlockRef, FirstToken
from tandem.core.errors import TandemError
from tandem.core.types import GenerationTask, WorkerLoad
from tandem.engine.results import StepResult


class ScriptedEngine:
    """Returns queued step results; notes every call."""

    num_blocks = 8
    cache = None
    on_cached: object = None

    def __init__(self) -> None:
        self.promotions = SimpleNamespace(wake_with=lambda wake: None)  # no tiers
        self.results: list[StepResult | BaseException] = []
        self.calls: list[tuple[object, ...]] = []
        self.refuse_with: TandemError | None = None
        self.free_blocks = 8
        self.has_kv = True  # of whatever prefill is asked for
        self.next_due_s: float | None = None

    def has_work(self) -> bool:
        """Whether a result is queued."""
        return bool(self.results)

    def next_work_s(self) -> float | None:
        """When work comes by itself."""
        return self.next_due_s

    def step(self) -> StepResult:
        """Return or raise what is queued."""
        result = self.results.pop(0)
        self.calls.append(("step",))
        if isinstance(result, BaseException):
            raise result
        return result

    def load(self) -> WorkerLoad:
        """Return a load that shows ``free_blocks``."""
        return WorkerLoad(free_blocks=self.free_blocks, total_blocks=self.num_blocks)

    def start_prefill(self, task: GenerationTask) -> None:
        """Note the call, or refuse."""
        self._note("start_prefill", task)

    def start_local(self, task: GenerationTask) -> None:
        """Note the call, or refuse."""
        self._note("start_local", task)

    def reserve_decode(self, task: GenerationTask) -> tuple[BlockRef, ...]:
        """Note the call and return two blocks, or refuse."""
        self._note("reserve_decode", task)
        return (BlockRef(3, 1), BlockRef(4, 1))

    def commit_handover(self, key: AttemptKey, first_tokens: Sequence[FirstToken]) -> None:
        """Note the call, or refuse."""
        self._note("commit_handover", key, tuple(first_tokens))

    def abort(self, key: AttemptKey, child: int | None = None) -> bool:
        """Note the call."""
        self.calls.append(("abort", key, child))
        return True

    def release(self, key: AttemptKey) -> bool:
        """Note the call."""
        self.calls.append(("release", key))
        return True

    def hold(self, key: AttemptKey, seconds: float) -> bool:
        """Note the call; there is something to hold unless a test says otherwise."""
        self.calls.append(("hold", key, seconds))
        return self.has_kv

    def rekey(self, key: AttemptKey, task: GenerationTask) -> bool:
        """Note the call; there is something to give unless a test says otherwise."""
        self.calls.append(("rekey", key, task))
        return self.has_kv

    def named(self, name: str) -> list[tuple[object, ...]]:
        """Return the calls of one method."""
        return [call for call in self.calls if call[0] == name]

    def _note(self, *call: object) -> None:
        self.calls.append(call)
        if self.refuse_with is not None:
            raise self.refuse_with
