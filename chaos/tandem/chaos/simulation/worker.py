"""One simulated worker process: the product's engine, loop, role and KV services, stepped by the scheduler."""

from collections.abc import Callable, Sequence
from functools import partial

import torch

from tandem.chaos.simulation.events import Judge
from tandem.chaos.simulation.kv_links import SimReceiverLink, SimSenderLink, SimThread
from tandem.chaos.simulation.kv_wire import KvFabric, SimDoor
from tandem.chaos.simulation.model import (
    BLOCK_SIZE,
    MAX_CONTEXT,
    POISON_EXIT,
    POISON_NAN,
    POISON_OOM,
    POISON_RAISE,
    SIM_SPEC,
    ProcessExit,
    SimRunner,
    SimSampler,
    SimText,
)
from tandem.chaos.simulation.process import Process
from tandem.chaos.simulation.worker_parts import PreemptibleMemory, SimInstruments, WakingInbox, WorkerPlan
from tandem.core.errors import TandemError
from tandem.core.event_log.events import RoleChanged
from tandem.core.ids import Epoch, WorkerId
from tandem.core.latency import LatencyEstimator
from tandem.core.messages import Beat, Command
from tandem.core.types import Role, WorkerInfo
from tandem.decode_worker.receiver_events import ReceiverRelay
from tandem.decode_worker.role import DecodeRole
from tandem.engine.engine import Engine
from tandem.engine.kv.block_cache import CacheSetup
from tandem.engine.kv.pool import KvPool
from tandem.engine.sequence import Sequence as EngineSequence
from tandem.kvtransfer.identity import SECRET_BYTES
from tandem.kvtransfer.layout import KvLayout
from tandem.kvtransfer.receiver import KvReceiverService
from tandem.kvtransfer.sender import KvSenderService
from tandem.prefill_worker.role import PrefillRole
from tandem.prefill_worker.sender_events import SenderRelay
from tandem.prefix_cache.config import PrefixCacheConfig
from tandem.worker_host.engine_loop import EngineLoop
from tandem.worker_host.outbox import Outbox, Send
from tandem.worker_host.role import RoleService

SIM_LAYOUT = KvLayout(
    model_digest="sim",
    tokenizer_digest="sim",
    dtype="float32",
    num_layers=1,
    num_kv_heads=1,
    head_dim=2,
    block_size=BLOCK_SIZE,
    rope_digest="none",
)
_FINGERPRINT = SIM_LAYOUT.fingerprint
_SECRET = b"secret of the simulation"
_INTEGRITY_EVERY_TURNS = 16
_COPY_S = 0.01  # longest copy of a chunk, as other threads see it


class SimWorker:
    """One life of one worker."""

    def __init__(self, process: Process, plan: WorkerPlan, fabric: KvFabric, judge: Judge) -> None:
        world = process.world
        self.process = process
        self.plan = plan
        self.epoch = Epoch(world.rng.getrandbits(63))
        self.faults: set[str] = set()  # armed for the next pass: "raise", "nan"
        self.beats_are_lost = False
        self.on_fatal_request: Callable[[str], None] = lambda request_id: None
        self.sender: KvSenderService | None = None
        self.receiver: KvReceiverService | None = None
        self._world = world
        self._fabric = fabric
        self._engine_clock = process.second_clock()
        self._busy_until_s = 0.0
        self._is_in_turn = False
        self._turn_due_s: float | None = None
        self._num_turns = 0
        pool = KvPool(SIM_SPEC, num_blocks=plan.num_blocks, block_size=BLOCK_SIZE, device="cpu", dtype=torch.float32)
        self.runner = SimRunner(pool, spend=self._spend, accuse=self._accuse, on_pass=self._on_pass)
        self.engine = Engine(
            runner=self.runner,
            sampler=SimSampler(),
            make_text=lambda task: SimText(),
            config=plan.engine,
            clock=self._engine_clock,
            cache=None if plan.cache is None else self._cache_setup(plan.cache),
        )
        self._sink = judge.sink(process, self.epoch)
        self.engine.observe(self._sink)
        self.inbox = WakingInbox(self.wake)
        self.outbox = Outbox(self.epoch)
        self._instruments = SimInstruments(plan.role, world)
        self.estimator = LatencyEstimator()
        self._memory = PreemptibleMemory(self.engine.table, pool)
        self._memory.preempt = self._preempt
        self.role: RoleService = self._make_role()
        self.loop = EngineLoop(
            engine=self.engine,
            role=self.role,
            inbox=self.inbox,
            outbox=self.outbox,
            estimator=self.estimator,
            instruments=self._instruments,
            clock=self._engine_clock,
        )
        self._senders: dict[str, Send] = {}
        process.every(1.0, self._beat)
        world.note(process.name, f"starts with {plan.num_blocks} blocks")
        self._sink.record(RoleChanged(role=plan.role, state="serving"))

    @property
    def info(self) -> WorkerInfo:
        """What it registers."""
        return WorkerInfo(
            worker_id=WorkerId(self.plan.name),
            epoch=self.epoch,
            role=self.plan.role,
            address=self.plan.name,
            model="sim",
            model_digest="sim",
            layout_fingerprint=_FINGERPRINT,
            block_size=BLOCK_SIZE,
            total_blocks=self.plan.num_blocks,
            max_context_tokens=MAX_CONTEXT,
            max_sequences=self.plan.engine.max_sequences,
            pid=1,
            host="sim",
        )

    # --- what a host does ------------------------------------------------------------------------------------------

    def attach(self, session_id: str, send: Send) -> None:
        """A router's stream stands; it gets a beat at once."""
        self._senders[session_id] = send
        self.loop.open_session(session_id, send)
        send(self._make_beat())

    def detach(self, session_id: str) -> None:
        """A router's stream is over."""
        if self._senders.pop(session_id, None) is not None:
            self.loop.close_session(session_id)

    def command(self, session_id: str, command: Command) -> None:
        """A router says something."""
        self.loop.command(session_id, command)

    def drain(self) -> None:
        """Refuse new work from now on."""
        self.loop.drain()
        self._sink.record(RoleChanged(role=self.plan.role, state="draining"))
        self.process.after(0.05, self._beat)

    def _make_beat(self) -> Beat:
        return Beat(
            worker_epoch=self.epoch,
            role=self.role.role,
            draining=self.loop.is_draining,
            load=self.loop.load,
            step_age_ms=self.loop.step_age_ms,
        )

    def _beat(self) -> None:
        if self.beats_are_lost:
            self._world.hit("beats_lost")
            return
        for send in tuple(self._senders.values()):
            send(self._make_beat())

    # --- the engine's turns ----------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Something waits for the engine thread."""
        self._schedule(max(self._world.now_s + 2e-4, self._busy_until_s))

    def _schedule(self, due_s: float) -> None:
        if self._turn_due_s is not None and self._turn_due_s <= due_s:
            return
        self._turn_due_s = due_s

        def due() -> None:
            if self._turn_due_s == due_s:
                self.process.call(self._turn)

        self._world.at(due_s, due)

    def _turn(self) -> None:
        self._turn_due_s = None
        self._is_in_turn = True
        rate = self.process.clock.rate
        self._engine_clock.ahead_s = max(0.0, (self._busy_until_s - self._world.now_s) * rate)  # it came early
        try:
            self.loop.step()
            self._num_turns += 1
            if self._num_turns % _INTEGRITY_EVERY_TURNS == 0:
                self.engine.check_integrity()
        except ProcessExit:
            self._world.hit("poison_exit")
            self.process.kill()
            return
        except MemoryError:
            self._world.hit("out_of_memory")
            self.process.kill()
            return
        except Exception as error:  # noqa: BLE001  a defect of the product: what the run is for
            self._world.violation("engine thread", f"{self.plan.name}: {type(error).__name__}: {error}")
            return
        finally:
            self._is_in_turn = False
        self._busy_until_s = self._world.now_s + self._engine_clock.ahead_s / rate
        wait_s = self.engine.next_work_s()
        if wait_s is not None:
            self._schedule(self._busy_until_s + max(wait_s, 2e-4))

    def _preempt(self) -> None:
        """A KV thread is in the middle of a copy, which takes a while: the engine's next turn may fall into it."""
        is_due = self._turn_due_s is not None and self._turn_due_s <= self._world.now_s + _COPY_S
        if self._is_in_turn or not is_due or not self._world.chance(self.plan.preempt):
            return
        self._world.hit("thread_preempted")
        self._turn()
        self._turn_due_s = None
        self.wake()

    def _spend(self, num_prefill_tokens: int, num_decode_rows: int) -> None:
        plan = self.plan
        self._engine_clock.ahead_s += plan.step_s + plan.prefill_token_s * num_prefill_tokens + 1e-4 * num_decode_rows

    def _accuse(self, problem: str) -> None:
        self._world.violation("foreign KV", f"{self.plan.name}: {problem}")

    def _on_pass(self, owners: Sequence[EngineSequence]) -> set[int]:
        """Do what is armed and what poisoned prompts ask for; return the rows whose output is NaN."""
        if "raise" in self.faults:
            self.faults.discard("raise")
            self._world.hit("step_exception")
            raise RuntimeError("injected")
        spoiled = set()
        if "nan" in self.faults:
            self.faults.discard("nan")
            self._world.hit("nan_row")
            spoiled.add(self._world.rng.randrange(len(owners)))
        for row, owner in enumerate(owners):
            last = owner.prompt[-1]
            if last < POISON_EXIT:
                continue
            if last in (POISON_EXIT, POISON_OOM):
                self.on_fatal_request(owner.key.request_id)
                raise ProcessExit if last == POISON_EXIT else MemoryError("injected")
            if last == POISON_RAISE:
                self._world.hit("poison_raise")
                raise RuntimeError("poisoned")
            if last == POISON_NAN:
                self._world.hit("poison_nan")
                spoiled.add(row)
        return spoiled

    # --- assembly --------------------------------------------------------------------------------------------------

    def _make_role(self) -> RoleService:
        common = {
            "engine": self.engine,
            "outbox": self.outbox,
            "inbox": self.inbox,
            "instruments": self._instruments,
        }
        if self.plan.role is Role.PREFILL:
            return PrefillRole(**common, make_sender=self._make_sender)  # type: ignore[arg-type]
        return DecodeRole(**common, make_receiver=self._make_receiver)  # type: ignore[arg-type]

    def _make_thread(self, name: str, tick: Callable[[], None], period_s: float) -> SimThread:
        return SimThread(self.process, tick, period_s, lag_s=self.plan.thread_lag_s)

    def _make_sender(self, relay: SenderRelay) -> KvSenderService:
        self.sender = KvSenderService(
            worker_id=self.plan.name,
            epoch=self.epoch,
            layout=SIM_LAYOUT,
            source=self._memory,
            events=relay,
            clock=self.process.clock,
            event_log=self._sink,
            make_link=partial(
                SimSenderLink, process=self.process, fabric=self._fabric, chunk_s=lambda: self.plan.chunk_s
            ),
            make_thread=self._make_thread,
        )
        return self.sender

    def _make_receiver(self, relay: ReceiverRelay) -> KvReceiverService:
        def make_door(*args: object) -> SimDoor:
            door = self._fabric.make_door(self.process, *args)  # type: ignore[arg-type]
            door.preempt = self._preempt
            return door

        self.receiver = KvReceiverService(
            worker_id=self.plan.name,
            epoch=self.epoch,
            layout=SIM_LAYOUT,
            destination=self._memory,
            events=relay,
            listen_host="",
            clock=self.process.clock,
            make_door=make_door,
            make_link=partial(SimReceiverLink, process=self.process),
            make_thread=self._make_thread,
            event_log=self._sink,
            draw_secret=lambda: self._world.rng.randbytes(SECRET_BYTES),
        )
        return self.receiver

    def _cache_setup(self, settings: PrefixCacheConfig) -> CacheSetup:
        return CacheSetup(settings=settings, secret=_SECRET, epoch=self.epoch, layout_fingerprint=_FINGERPRINT)

    # --- at the end ------------------------------------------------------------------------------------------------

    def leftovers(self) -> list[str]:
        """What is still held; empty when everything was given back."""
        problems = []
        try:
            self.engine.check_integrity()
        except TandemError as error:
            problems.append(str(error))
        counts = self.engine.table.counts()
        num_held = counts.total - counts.free - counts.idle
        if num_held:
            problems.append(f"{num_held} of {counts.total} blocks are neither free nor idle in the cache")
        if self.outbox.num_attempts:
            problems.append(f"{self.outbox.num_attempts} attempts are bound to a router")
        if self.sender is not None and self.sender.held():
            problems.append(f"the sender holds {list(self.sender.held())}")
        if self.receiver is not None and self.receiver.wanted():
            problems.append(f"the receiver wants {list(self.receiver.wanted())}")
        return problems
