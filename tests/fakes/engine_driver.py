"""Runs an engine over the fake model the way a worker would, and collects what came out per child."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from tandem.core.blocks import AttemptKey, BlockRef
from tandem.core.ids import LOCAL_TENANT, Epoch, RequestId, Tenant
from tandem.core.messages import RequestEvent
from tandem.core.types import FinishReason, GenerationTask, SamplingParams, StopParams
from tandem.engine.config import EngineConfig
from tandem.engine.engine import Engine
from tandem.engine.kv.block_cache import CacheSetup
from tandem.engine.results import SealedPrefill, StepResult
from tandem.engine.sampling.sampler import Sampler
from tandem.engine.text_output import text_factory
from tandem.prefix_cache.config import PrefixCacheConfig
from tandem.text.tokenizer import Tokenizer
from tests.fakes.fake_runner import FakeRunner, fake_pool
from tests.fakes.tiny_tokenizer import save_tiny_tokenizer


def tiny_tokenizer() -> Tokenizer:
    """Load the tiny tokenizer through the real loader."""
    with TemporaryDirectory() as folder:
        save_tiny_tokenizer(Path(folder))
        return Tokenizer.load(Path(folder))


TOKENIZER = tiny_tokenizer()


class SettableClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.time_s = 100.0

    def now_s(self) -> float:
        """Return the set time."""
        return self.time_s


def make_task(
    name: str = "r0",
    *,
    num_prompt: int = 9,
    max_tokens: int = 6,
    n: int = 1,
    attempt: int = 0,
    sampling: SamplingParams | None = None,
    stop: StopParams | None = None,
    prompt: Sequence[int] | None = None,
    tenant: Tenant = LOCAL_TENANT,
    **fields: object,
) -> GenerationTask:
    """Return a task whose prompt is a function of its name and length."""
    salt = sum(map(ord, name))
    ids = prompt if prompt is not None else [4 + (salt * 31 + 7 * i * i + i) % 250 for i in range(num_prompt)]
    return GenerationTask(
        request_id=RequestId(name),
        attempt=attempt,
        tenant=tenant,
        prompt_token_ids=tuple(ids),
        num_sequences=n,
        sampling=sampling or SamplingParams(),
        stop=stop or StopParams(max_tokens=max_tokens),
        **fields,  # type: ignore[arg-type]
    )


def key_of(task: GenerationTask) -> AttemptKey:
    """Return the task's key."""
    return AttemptKey(task.request_id, task.attempt)


Child = tuple[str, int]


@dataclass(slots=True)
class Collected:
    """Output of every child of every request, checked for gaps as it comes."""

    tokens: dict[Child, list[int]] = field(default_factory=lambda: defaultdict(list))
    text: dict[Child, str] = field(default_factory=lambda: defaultdict(str))
    finished: dict[Child, FinishReason] = field(default_factory=dict)
    events: list[RequestEvent] = field(default_factory=list)
    sealed: list[SealedPrefill] = field(default_factory=list)
    results: list[StepResult] = field(default_factory=list)

    def add(self, result: StepResult) -> None:
        """Take one step's result."""
        self.results.append(result)
        self.events.extend(result.events)
        self.sealed.extend(result.sealed)
        for delta in result.tokens:
            child = (delta.request_id, delta.child)
            if child in self.finished:
                raise AssertionError(f"{child} goes on after its end")
            if delta.position != len(self.tokens[child]):
                raise AssertionError(f"{child}: position {delta.position} after {len(self.tokens[child])} tokens")
            self.tokens[child].extend(delta.token_ids)
            self.text[child] += delta.text
            if delta.finish_reason is not None:
                self.finished[child] = delta.finish_reason

    def events_of(self, kind: type[RequestEvent]) -> list[RequestEvent]:
        """Return the events of one type."""
        return [event for event in self.events if isinstance(event, kind)]


def make_cache(**settings: object) -> CacheSetup:
    """Return the setup of a prefix cache with a secret of the tests'."""
    return CacheSetup(
        settings=PrefixCacheConfig(**settings),  # type: ignore[arg-type]
        secret=b"secret of the tests",
        epoch=Epoch(7),
        layout_fingerprint="fake",
    )


def make_engine(
    num_blocks: int = 64,
    *,
    block_size: int = 4,
    clock: SettableClock | None = None,
    cache: CacheSetup | None = None,
    **settings: object,
) -> Engine:
    """Return an engine over the fake model and the real sampler; without a prefix cache unless one is given."""
    return Engine(
        runner=FakeRunner(fake_pool(num_blocks, block_size)),
        sampler=Sampler(),
        make_text=text_factory(TOKENIZER),
        config=EngineConfig(**settings),  # type: ignore[arg-type]
        clock=clock,
        cache=cache,
    )


def drive(engine: Engine, collected: Collected | None = None, *, max_steps: int = 5000) -> Collected:
    """Step until there is nothing to do; check the books after every step."""
    out = collected or Collected()
    for _ in range(max_steps):
        if not engine.has_work():
            return out
        out.add(engine.step())
        engine.check_integrity()
    raise AssertionError(f"still busy after {max_steps} steps: {engine.load()}")


def run_local(engine: Engine, tasks: Iterable[GenerationTask]) -> Collected:
    """Run tasks to their end on one engine."""
    for task in tasks:
        engine.start_local(task)
    out = drive(engine)
    assert_idle(engine)
    return out


def filled_refs(collected: Collected, key: AttemptKey) -> list[BlockRef]:
    """Return the blocks announced as filled, in order; checks that the ordinals have no gap."""
    refs: list[BlockRef] = []
    for filled in (f for result in collected.results for f in result.filled if f.key == key):
        if filled.first_ordinal != len(refs):
            raise AssertionError(f"block {filled.first_ordinal} announced after {len(refs)} blocks")
        refs.extend(filled.refs)
    return refs


def copy_blocks(source: Engine, target: Engine, key: AttemptKey, pairs: Iterable[tuple[BlockRef, BlockRef]]) -> None:
    """Copy blocks from one pool to the other as sender and receiver would: each under a pin on both sides."""
    for from_ref, to_ref in pairs:
        if not (source.table.pin(from_ref, key) and target.table.begin_write(to_ref, key)):
            raise AssertionError("a block of a live hand-over can't be held")
        target.pool.bytes_view(to_ref.block_id)[:] = source.pool.bytes_view(from_ref.block_id)
        if not (source.table.unpin(from_ref) and target.table.end_write(to_ref)):
            raise AssertionError("a block was lost during its copy")


def run_split(
    source: Engine, target: Engine, tasks: Iterable[GenerationTask], collected: Collected | None = None
) -> Collected:
    """Prefill on ``source``, hand over, decode on ``target``, all of them to their end."""
    tasks = list(tasks)
    for task in tasks:
        source.start_prefill(task)
    out = drive(source, collected)
    for task in tasks:
        sealed = next(s for s in out.sealed if s.key == key_of(task))
        if not all(first.finished for first in sealed.first_tokens):
            refs = target.reserve_decode(task)
            sent = filled_refs(out, sealed.key)
            if not len(sent) == len(refs) == sealed.num_blocks:
                raise AssertionError(f"{len(sent)} blocks sent, {len(refs)} reserved, {sealed.num_blocks} sealed")
            copy_blocks(source, target, sealed.key, zip(sent, refs, strict=True))
            target.commit_handover(sealed.key, sealed.first_tokens)
        source.release(sealed.key)
        drive(target, out)
    for engine in (source, target):
        assert_idle(engine)
    return out


def assert_idle(engine: Engine) -> None:
    """Nothing is left: no attempt, no block, no work."""
    engine.check_integrity()
    load = engine.load()
    if (
        engine.has_work()
        or load.free_blocks + load.pinned_blocks != load.total_blocks
        or load.num_running
        or load.num_waiting
    ):
        raise AssertionError(f"not idle: {load}")
