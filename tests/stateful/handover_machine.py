"""Hypothesis state machine over the hand-over world.

Uniform rules hardly ever come to where the races are: ``drive`` takes a new attempt straight to a chosen stage while it
holds (or repeats later) what was sent on the way, taking blocks away from whoever has them where they are short.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from enum import IntEnum

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tandem.core.blocks import AttemptKey
from tandem.kvtransfer import KvGrant
from tandem.kvtransfer.frames import Chunk, Commit, CommitAck, Open, Seal
from tests.stateful.handover_parts import Build, Counts, Held, attempt_key
from tests.stateful.handover_world import HandoverWorld

NUM_REQUESTS = 2
INDEX = st.integers(0, 7)
REQUESTS = st.integers(0, NUM_REQUESTS - 1)


class Stage(IntEnum):
    """How far a drive goes."""

    FILLED = 0
    GRANTED = 1  # the grant is on its way to P
    STREAMING = 2  # P has it, nothing was sent
    ONE_SENT = 3  # the first chunk is on its way
    ALL_SENT = 4
    ONE_LANDED = 5
    SEAL_FIRST = 6  # the seal overtakes every chunk
    ALL_LANDED = 7  # the seal is on its way
    READY = 8
    COMMITTED = 9  # P knows


class End(IntEnum):
    """How a first attempt ends."""

    NOT = 0
    ABORT_P = 1
    ABORT_D = 2
    ABORT_BOTH = 3
    CRASH_P = 4
    CRASH_D = 5
    LATE = 6


STAGES = st.sampled_from(Stage)


class HandoverMachine(RuleBasedStateMachine):
    """Subclasses choose the build."""

    build = Build()
    totals = Counts()
    """Over all walks of one class: what the adversary got to see."""

    def __init__(self) -> None:
        super().__init__()
        self.world = HandoverWorld(self.build)
        self.num_attempts = [0] * NUM_REQUESTS

    def teardown(self) -> None:
        if sys.exc_info()[0] is None:  # what the walk itself found is not to be hidden by what follows from it
            self.world.close_down()
        self.totals.update(self.world.counts)

    # --- biased ------------------------------------------------------------------------------------------------------

    @rule(request=REQUESTS, num_blocks=st.integers(1, 2), stage=STAGES, repeats=st.booleans(), makes_room=st.booleans())
    def drive(self, request: int, num_blocks: int, stage: Stage, repeats: bool, makes_room: bool) -> None:
        """Take one attempt to a stage, its other messages held."""
        self._drive(request, num_blocks, stage, repeats=repeats, makes_room=makes_room)

    @rule(request=REQUESTS, num_blocks=st.integers(1, 2), first=STAGES, end=st.sampled_from(End), second=STAGES)
    def drive_reuse(self, request: int, num_blocks: int, first: Stage, end: End, second: Stage) -> None:
        """One attempt gets so far and ends; the next one takes its blocks; then comes what was held of the first."""
        old = self._drive(request, num_blocks, first, repeats=True, makes_room=True)
        self._end(old, end)
        self._drive(request, num_blocks, second, repeats=False, makes_room=True)
        self._send(old, 9)
        for held in [h for h in self.world.net if h.origin == old]:
            self.world.net.remove(held)
            self.world.arrive(held)

    @rule(request=REQUESTS, num_blocks=st.integers(1, 2), index=INDEX, byte=st.integers(0, 3), turns=st.booleans())
    def drive_damage(self, request: int, num_blocks: int, index: int, byte: int, turns: bool) -> None:
        """Everything is on its way, one frame is damaged, and all of it arrives."""
        key = self._drive(request, num_blocks, Stage.ALL_SENT, repeats=False, makes_room=True)
        if turns:
            self.misdirect(index)
        else:
            self.spoil(index, byte)
        self._deliver(key, Chunk, False)
        self._deliver(key, Seal, False)
        self.world.adopt(key)

    def _end(self, key: AttemptKey, end: End) -> None:
        if end in (End.ABORT_P, End.ABORT_BOTH):
            self.world.abort_p(key)
        if end in (End.ABORT_D, End.ABORT_BOTH):
            self.world.abort_d(key)
        if end is End.CRASH_P:
            self.world.crash_p()
        if end is End.CRASH_D:
            self.world.crash_d()
        if end is End.LATE:
            self.world.wait(16.0)

    def _drive(self, request: int, num_blocks: int, stage: Stage, *, repeats: bool, makes_room: bool) -> AttemptKey:
        num_blocks = min(num_blocks, self.build.pool_blocks)
        key = attempt_key(request, self.num_attempts[request])
        world = self.world
        if makes_room:
            self._make_room(num_blocks)
        world.fill(key, num_blocks)
        if key not in world.p.sending:
            return key
        self.num_attempts[request] += 1
        if stage is Stage.FILLED:
            return key
        world.seal(key)
        world.reserve(key)
        if stage >= Stage.STREAMING:
            self._deliver(key, KvGrant, repeats)
        if stage >= Stage.ONE_SENT:
            self._send(key, 2)
            self._deliver(key, Open, repeats)
        if stage >= Stage.ALL_SENT:
            self._send(key, 9)
        if stage is Stage.SEAL_FIRST:
            self._deliver(key, Seal, repeats)
        elif stage is Stage.ONE_LANDED:
            self._deliver(key, Chunk, repeats, limit=1)
        elif stage >= Stage.ALL_LANDED:
            self._deliver(key, Chunk, repeats)
        if stage >= Stage.READY:
            self._deliver(key, Seal, repeats)
        if stage is Stage.COMMITTED:
            world.adopt(key)
            self._deliver(key, Commit, repeats)
            self._send(key, 1)
            self._deliver(key, CommitAck, repeats)
        return key

    def _make_room(self, num_blocks: int) -> None:
        """The router gives up whoever stands in the way: on one side at a time, as the words may be late."""
        world = self.world
        for key in list(world.p.sending):
            if world.p.table.num_free < num_blocks:
                world.abort_p(key)
        for key in list(world.d.receiving):
            if world.d.table.num_free < num_blocks:
                world.abort_d(key)

    def _send(self, key: AttemptKey, limit: int) -> None:
        for _ in range(limit):
            if key in self.world.p.sending:
                self.world.carry_out(key)
            for copy in list(self.world.p.copies):
                if copy.key == key:
                    self.world.finish_copy(copy)

    def _deliver(self, key: AttemptKey, kind: type, repeats: bool, limit: int = 9) -> None:
        for held in [h for h in self.world.net if h.origin == key and isinstance(h.message, kind)][:limit]:
            if not repeats:
                self.world.net.remove(held)
            self.world.arrive(held)

    # --- the network -------------------------------------------------------------------------------------------------

    def _pick(self, index: int) -> Held | None:
        net = self.world.net
        return net[index % len(net)] if net else None

    @precondition(lambda self: self.world.net)
    @rule(index=INDEX, slow=st.booleans())
    def deliver(self, index: int, slow: bool) -> None:
        held = self._pick(index)
        if held is not None:
            self.world.net.remove(held)
            self.world.arrive(held, slow=slow)

    @precondition(lambda self: self.world.net)
    @rule(index=INDEX)
    def deliver_all_of_one(self, index: int) -> None:
        """What was held of one attempt comes at once, in order."""
        first = self._pick(index)
        for held in [h for h in self.world.net if first is not None and h.origin == first.origin]:
            self.world.net.remove(held)
            self.world.arrive(held)

    @precondition(lambda self: self.world.net)
    @rule(index=INDEX)
    def duplicate(self, index: int) -> None:
        held = self._pick(index)
        if held is not None:
            self.world.arrive(held)

    @precondition(lambda self: self.world.net)
    @rule(index=INDEX)
    def lose(self, index: int) -> None:
        self.world.net.pop(index % len(self.world.net))

    @rule(index=INDEX, byte=st.integers(0, 3))
    def spoil(self, index: int, byte: int) -> None:
        """A bit of a payload flips on its way."""

        def flip(held: Held) -> Held:
            if isinstance(held.message, Seal):
                payload = bytes([held.message.payload[0] ^ 1]) + held.message.payload[1:]
                return replace(held, message=replace(held.message, payload=payload))
            spoilt = bytearray(held.payload)
            spoilt[byte] ^= 0x10
            return replace(held, payload=bytes(spoilt))

        self._change(index, (Chunk, Seal), flip)

    @rule(index=INDEX)
    def misdirect(self, index: int) -> None:
        """A broken sender names another block of its grant."""

        def turn(held: Held) -> Held:
            chunk = held.message
            receiving = self.world.d.receiving.get(held.origin)
            if not isinstance(chunk, Chunk) or receiving is None:
                return held
            others = [ref for ref in receiving.grant.blocks if ref.block_id != chunk.block_id]
            if not others:
                return held
            named = replace(chunk, block_id=others[0].block_id, generation=others[0].generation)
            return replace(held, message=named)

        self._change(index, (Chunk,), turn)

    def _change(self, index: int, kinds: tuple[type, ...], change: Callable[[Held], Held]) -> None:
        places = [n for n, held in enumerate(self.world.net) if isinstance(held.message, kinds)]
        if places:
            place = places[index % len(places)]
            self.world.net[place] = change(self.world.net[place])

    # --- the workers -------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.world.p.sending)
    @rule(index=INDEX)
    def carry_out(self, index: int) -> None:
        keys = list(self.world.p.sending)
        self.world.carry_out(keys[index % len(keys)])

    @precondition(lambda self: self.world.p.copies)
    @rule(index=INDEX)
    def finish_copy(self, index: int) -> None:
        copies = self.world.p.copies
        self.world.finish_copy(copies[index % len(copies)])

    @precondition(lambda self: self.world.d.copies)
    @rule(index=INDEX)
    def finish_write(self, index: int) -> None:
        copies = self.world.d.copies
        self.world.finish_write(copies[index % len(copies)])

    @precondition(lambda self: self.world.d.ready)
    @rule()
    def adopt(self) -> None:
        self.world.adopt(next(iter(self.world.d.ready)))

    @precondition(lambda self: self.world.p.sending)
    @rule(index=INDEX)
    def abort_p(self, index: int) -> None:
        keys = list(self.world.p.sending)
        self.world.abort_p(keys[index % len(keys)])

    @precondition(lambda self: self.world.d.receiving)
    @rule(index=INDEX)
    def abort_d(self, index: int) -> None:
        keys = list(self.world.d.receiving)
        self.world.abort_d(keys[index % len(keys)])

    @rule(seconds=st.sampled_from([0.5, 3.0, 16.0]))
    def wait(self, seconds: float) -> None:
        self.world.wait(seconds)

    @rule()
    def beat(self) -> None:
        self.world.beat()

    @rule()
    def crash_p(self) -> None:
        self.world.crash_p()

    @rule()
    def crash_d(self) -> None:
        self.world.crash_d()

    @invariant()
    def nothing_is_broken(self) -> None:
        self.world.check()


def machine(build: Build) -> type[HandoverMachine]:
    """Return the machine over this build, with totals of its own."""
    return type("Handover", (HandoverMachine,), {"build": build, "totals": Counts()})
