"""Two engines, small pools and a random operator who starts, copies, commits, aborts, poisons and breaks at will.

Whatever he does: no block leaks, no position is skipped or repeated, and every token that came out is the one the model
says, also after an attempt failed and another one went on from what was emitted. With prefix caches he also makes
prompts that begin alike, of several tenants, hands over only what is missing, pins and flushes.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from tandem.core.blocks import AttemptKey, BlockRef
from tandem.core.errors import Overloaded
from tandem.core.ids import LOCAL_TENANT, Tenant
from tandem.core.messages import AttemptFailed, PrefillDone
from tandem.core.types import GenerationTask, KvSource, PriorityClass, SamplingParams, StopParams
from tandem.engine.config import EngineConfig
from tandem.engine.engine import Engine
from tandem.engine.kv.block_cache import CacheSetup
from tandem.engine.results import SealedPrefill, StepResult
from tandem.engine.sampling.sampler import Sampler
from tandem.engine.text_output import text_factory
from tandem.prefix_cache.eviction.choice import EvictionName
from tests.fakes.engine_driver import TOKENIZER, Collected, SettableClock, assert_idle, key_of, make_cache, make_task
from tests.fakes.fake_runner import FakeRunner, fake_pool, reference_tokens

TENANTS = (Tenant("a"), Tenant("b"))


@dataclass(slots=True)
class Live:
    """One attempt as the operator sees it."""

    task: GenerationTask
    source: KvSource
    sent: list[BlockRef] = field(default_factory=list)
    granted: tuple[BlockRef, ...] | None = None
    num_copied: int = 0  # or there already
    sealed: SealedPrefill | None = None
    is_committed: bool = False


class Monkey:
    """The operator. Deterministic by seed."""

    def __init__(self, seed: int, *, cache: CacheSetup | None = None) -> None:
        self.random = random.Random(seed)
        self.caches = cache is not None
        self.num_reused = 0
        self.clock = SettableClock()
        self.out = Collected()
        self.live: dict[AttemptKey, Live] = {}
        self.done: dict[str, set[int]] = {}
        self.tasks: dict[str, GenerationTask] = {}
        chunk = self.random.choice([3, 8, 64])
        settings = {
            "max_batched_tokens": chunk,
            "mixed_prefill_tokens": chunk,
            "max_sequences": self.random.choice([4, 16]),
            "growth_margin": self.random.choice([0.0, 0.3]),
            "batching": self.random.choice(["continuous", "continuous", "dynamic"]),
        }
        self.runners = [FakeRunner(fake_pool(self.random.choice([9, 14, 40]))) for _ in range(2)]
        self.prefill, self.decode = (
            Engine(
                runner=runner,
                sampler=Sampler(),
                make_text=text_factory(TOKENIZER),
                config=EngineConfig(**settings),  # type: ignore[arg-type]
                clock=self.clock,
                cache=cache,
            )
            for runner in self.runners
        )

    def pick(self, wanted: Callable[[Live], bool]) -> Live | None:
        found = [live for live in self.live.values() if wanted(live)]
        return self.random.choice(found) if found else None

    # --- what he may do ---

    def start(self) -> None:
        name = f"r{len(self.tasks)}"
        length = self.random.randint(1, 20)
        task = make_task(
            name,
            num_prompt=length,
            prompt=self.shared_prompt(length) if self.caches else None,
            tenant=self.random.choice(TENANTS) if self.caches else LOCAL_TENANT,
            n=self.random.choice([1, 1, 2, 4]),
            sampling=self.random.choice([SamplingParams(), SamplingParams(temperature=1.2, seed=len(name))]),
            stop=StopParams(max_tokens=self.random.randint(1, 12)),
            priority=self.random.choice(list(PriorityClass)),
        )
        self.tasks[name], self.done[name] = task, set()
        self.launch(task)

    def shared_prompt(self, length: int) -> list[int]:
        """Begin like many others, sometimes end in an own way; now and then go on after somebody's answer."""
        spoken = [t for t in self.tasks.values() if self.out.tokens[t.request_id, 0]]
        if spoken and self.random.random() < 0.3:
            task = self.random.choice(spoken)
            return [*task.prompt_token_ids, *self.out.tokens[task.request_id, 0], 5][:24]
        own = self.random.randint(0, length)
        return [4 + i for i in range(own)] + [self.random.randint(4, 250) for _ in range(length - own)]

    def launch(self, task: GenerationTask) -> None:
        is_local = self.random.random() < 0.3 or (any(task.emitted) and task.num_sequences > 1)
        live = Live(task, KvSource.LOCAL if is_local else KvSource.HANDOVER)
        self.live[key_of(task)] = live
        (self.decode.start_local if is_local else self.prefill.start_prefill)(task)

    def retry(self) -> None:
        """Some request that has no attempt goes on from what it emitted."""
        busy = {key.request_id for key in self.live}
        idle = [t for n, t in self.tasks.items() if n not in busy and len(self.done[n]) < t.num_sequences]
        if idle:
            task = self.random.choice(idle)
            name = task.request_id
            emitted = tuple(tuple(self.out.tokens[name, c]) for c in range(task.num_sequences))
            task = replace(task, attempt=task.attempt + 1, emitted=emitted, done_children=frozenset(self.done[name]))
            self.tasks[name] = task
            self.launch(task)

    def reserve(self) -> None:
        live = self.pick(lambda a: a.source is KvSource.HANDOVER and a.granted is None)
        if live is not None:
            try:
                if self.random.random() < 0.8:
                    reserved = self.decode.reserve_delta(live.task)
                    live.granted, live.num_copied = reserved.refs, reserved.num_cached
                    self.num_reused += reserved.num_cached
                else:
                    live.granted = self.decode.reserve_decode(live.task)
            except Overloaded:
                self.drop(key_of(live.task))  # as the router does: a sealed prompt must not wait for a full pool

    def copy(self) -> None:
        live = self.pick(lambda a: a.granted is not None and a.num_copied < len(a.sent))
        if live is None or live.granted is None:
            return
        key, index = key_of(live.task), live.num_copied
        source, target = live.sent[index], live.granted[index]
        if self.prefill.table.pin(source, key) and self.decode.table.begin_write(target, key):
            if self.random.random() < 0.2:
                self.abort_or_step(key)  # the copy takes its time
            self.decode.pool.bytes_view(target.block_id)[:] = self.prefill.pool.bytes_view(source.block_id)
            self.prefill.table.unpin(source)
            self.decode.table.end_write(target)
        live.num_copied += 1

    def abort_or_step(self, key: AttemptKey) -> None:
        if self.random.random() < 0.5:
            self.drop(key)
        else:
            self.step(self.prefill)
            self.step(self.decode)

    def commit(self) -> None:
        live = self.pick(lambda a: a.sealed is not None and not a.is_committed)
        if live is None or live.sealed is None:
            return
        key = key_of(live.task)
        if all(first.finished for first in live.sealed.first_tokens):
            self.drop(key)
        elif live.granted is not None and live.num_copied == live.sealed.num_blocks:
            self.decode.commit_handover(key, live.sealed.first_tokens)
            assert self.prefill.release(key)
            live.is_committed = True

    def abort(self) -> None:
        live = self.pick(lambda a: True)
        if live is not None:
            self.drop(key_of(live.task))

    def drop(self, key: AttemptKey) -> None:
        self.prefill.abort(key)
        self.decode.abort(key)
        self.live.pop(key, None)

    def break_a_pass(self) -> None:
        self.random.choice(self.runners).failures.append(RuntimeError("broken"))

    def flush(self) -> None:
        engine = self.random.choice([self.prefill, self.decode])
        if engine.cache is not None:
            engine.cache.flush(self.random.choice([None, *TENANTS]))
            engine.check_integrity()

    def keep(self) -> None:
        engine = self.random.choice([self.prefill, self.decode])
        if engine.cache is not None and self.tasks:
            task = self.random.choice(list(self.tasks.values()))
            engine.cache.keep(task.tenant, task.prompt_token_ids, self.random.choice([0.5, 5.0]))
            engine.check_integrity()

    def wait(self) -> None:
        self.clock.time_s += 1.0

    def poison(self) -> None:
        self.random.choice(self.runners).poison_id = self.random.choice([None, None, self.random.randrange(320)])

    def step_either(self) -> None:
        self.step(self.random.choice([self.prefill, self.decode]))

    # --- what comes of it ---

    def step(self, engine: Engine) -> None:
        if not engine.has_work():
            return
        result = engine.step()
        engine.check_integrity()
        self.out.add(result)
        for event in result.events:
            if isinstance(event, AttemptFailed):
                self.drop(AttemptKey(event.request_id, event.attempt))
            if isinstance(event, PrefillDone):
                self.num_reused += event.num_cached_tokens
        self.note(result)

    def note(self, result: StepResult) -> None:
        for filled in result.filled:
            if filled.key in self.live:
                self.live[filled.key].sent.extend(filled.refs)
        for sealed in result.sealed:
            if sealed.key in self.live:
                self.live[sealed.key].sealed = sealed
        for delta in result.tokens:
            if delta.finish_reason is not None:
                self.done[delta.request_id].add(delta.child)
                if len(self.done[delta.request_id]) == self.tasks[delta.request_id].num_sequences:
                    key = AttemptKey(delta.request_id, delta.attempt)
                    if key in self.live and self.live[key].sealed is None:
                        del self.live[key]

    def run(self, num_actions: int) -> None:
        """Act, then stop breaking things and bring every request to its end."""
        actions = {
            self.start: 3, self.retry: 4, self.reserve: 6, self.copy: 20, self.commit: 8, self.step_either: 30,
            self.abort: 1, self.break_a_pass: 0.3, self.poison: 0.5, self.flush: 0.2, self.keep: 1, self.wait: 0.5,
        }  # fmt: skip
        for _ in range(num_actions):
            self.random.choices(list(actions), list(actions.values()))[0]()
        for runner in self.runners:
            runner.failures, runner.poison_id = [], None
        for _ in range(20_000):
            if all(len(self.done[name]) == task.num_sequences for name, task in self.tasks.items()):
                break
            for action in (self.retry, self.reserve, self.copy, self.commit):
                action()
            self.step(self.prefill)
            self.step(self.decode)
        for key in list(self.live):
            self.drop(key)
        for engine in (self.prefill, self.decode):
            while engine.has_work():
                self.step(engine)


@pytest.mark.parametrize("seed", range(20))
def test_monkey(seed: int) -> None:
    play(Monkey(seed))


@pytest.mark.parametrize("seed", range(14))
def test_monkey_with_prefix_caches(seed: int) -> None:
    monkey = Monkey(seed, cache=make_cache(eviction=list(EvictionName)[seed % 4], max_pinned_share=0.5))
    play(monkey)
    assert monkey.num_reused > 3


def play(monkey: Monkey) -> None:
    monkey.run(300)
    assert_idle(monkey.prefill)
    assert_idle(monkey.decode)
    for name, task in monkey.tasks.items():
        for child in range(task.num_sequences):
            assert monkey.out.tokens[name, child] == reference_tokens(task, child), (name, child)
    assert len(monkey.tasks) > 5
