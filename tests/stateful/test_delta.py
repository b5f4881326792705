"""The delta hand-over under the adversary: nothing torn is adopted and nothing leaks; planted defects are found."""

from typing import Any, ClassVar
from unittest.mock import patch

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tandem.core.blocks import AttemptKey, BlockRef
from tandem.core.ids import RequestId
from tandem.engine.kv.block_table import BlockTable, IntegrityError
from tandem.kvtransfer import KvGrant
from tandem.kvtransfer.digest import SealedRange, seal_mac
from tandem.kvtransfer.machine import receiver as receiving_machine
from tandem.kvtransfer.machine import sender as sending_machine
from tandem.kvtransfer.machine import sender_events as tx
from tandem.kvtransfer.machine.sender import HandoverSender
from tests.stateful.delta_world import DeltaBuild, DeltaWorld, Word, _found, in_order, name_of, shuffled
from tests.stateful.running import Violation, hunt, walk

INDEX = st.integers(0, 7)
WORDS = st.tuples(st.sampled_from("AB"), st.text("xy", min_size=1, max_size=3)).map(lambda pair: (pair[0], *pair[1]))


class DeltaMachine(RuleBasedStateMachine):
    """Subclasses choose the build."""

    build = DeltaBuild()
    totals: ClassVar[dict[str, int]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.world = DeltaWorld(self.build)
        self.num_requests = 0

    def teardown(self) -> None:
        self.world.close_down()
        for name, count in self.world.counts.items():
            self.totals[name] = self.totals.get(name, 0) + count

    def _key(self, index: int) -> AttemptKey | None:
        keys = list(self.world.sending)
        return keys[index % len(keys)] if keys else None

    @rule(word=WORDS, seed=st.integers(0, 99), end=st.booleans())
    def drive(self, word: Word, seed: int, end: bool) -> None:
        """A whole request, its messages in any order; with an end, what it left in the cache is all that stays."""
        key = self._begin(word)
        self.world.reserve(key)
        shuffled(self.world, seed)
        if end:
            self.world.abort_p(key)
            self.world.abort_d(key)

    @rule(word=WORDS)
    def reserve_and_hold(self, word: Word) -> None:
        """The grant is on its way, its blocks borrowed: now let others evict."""
        self.world.reserve(self._begin(word))

    @rule(word=WORDS, seed=st.integers(0, 99), crash=st.booleans(), num_evicted=st.integers(0, 3))
    def drive_again(self, word: Word, seed: int, crash: bool, num_evicted: int) -> None:
        """D is lost half way; another one (or the same, its cache changed) gets what P still holds."""
        key = self._begin(word)
        self.world.reserve(key)
        for _ in range(3):
            self.carry_out(0)
        if crash:
            self.world.crash_d()
        self.world.abort_d(key)
        for index in range(num_evicted):
            self.world.evict(index)
        later = AttemptKey(key.request_id, key.attempt + 1)
        self.world.hand_over_again(key, later)
        self.world.reserve(later)
        shuffled(self.world, seed)

    def _begin(self, word: Word) -> AttemptKey:
        self.num_requests += 1
        key = AttemptKey(RequestId(f"{self.num_requests:032x}"), 0)
        self.world.fill(key, word)
        if key not in self.world.sending:  # P is full: somebody makes room
            for other in list(self.world.sending):
                self.world.abort_p(other)
                del self.world.sending[other]
            self.world.fill(key, word)
        return key

    @rule(index=INDEX)
    def carry_out(self, index: int) -> None:
        key = self._key(index)
        if key is not None:
            self.world.carry_out(key)

    @rule(index=INDEX, repeats=st.booleans())
    def deliver(self, index: int, repeats: bool) -> None:
        if self.world.net:
            place = index % len(self.world.net)
            message, payload = self.world.net[place] if repeats else self.world.net.pop(place)
            self.world.arrive(message, payload)

    @rule(seed=st.integers(0, 99))
    def deliver_all(self, seed: int) -> None:
        shuffled(self.world, seed)

    @rule(index=INDEX)
    def lose(self, index: int) -> None:
        if self.world.net:
            self.world.net.pop(index % len(self.world.net))

    @rule(index=INDEX)
    def evict(self, index: int) -> None:
        self.world.evict(index)

    @rule(index=INDEX, at_p=st.booleans())
    def abort(self, index: int, at_p: bool) -> None:
        keys = list(self.world.sending if at_p else {**self.world.receiving, **self.world.decoding})
        if keys:
            (self.world.abort_p if at_p else self.world.abort_d)(keys[index % len(keys)])

    @rule()
    def crash_d(self) -> None:
        self.world.crash_d()

    @invariant()
    def nothing_is_broken(self) -> None:
        self.world.check()


def machine(build: DeltaBuild) -> type[DeltaMachine]:
    """Return the machine over this build, with totals of its own."""
    return type("Delta", (DeltaMachine,), {"build": build, "totals": {}})


def test_no_wrong_byte_and_no_leak() -> None:
    checked = machine(DeltaBuild())
    walk(checked, num_examples=80)
    assert checked.totals["adopted_delta"] > 20, f"the walks prove little: {checked.totals}"
    assert checked.totals["nothing_to_send"] > 10
    assert checked.totals["again"] > 10
    assert checked.totals["evicted"] > 10


class OffByOne(HandoverSender):
    """Mutant: wrong first_ordinal when P reads."""

    def _pump(self, now_s: float) -> list[tx.SenderAction]:
        first = self._first_ordinal
        self._first_ordinal = max(first - 1, 0)
        try:
            return super()._pump(now_s)
        finally:
            self._first_ordinal = first


class FromZero(HandoverSender):
    """A broken P: sends as many blocks as were granted, but the first ones, and seals them as such."""

    def _on_grant(self, now_s: float, event: tx.Granted) -> list[tx.SenderAction]:
        actions = super()._on_grant(now_s, tx.Granted(_whole(event.grant), b""))
        self._sources = {n: ref for n, ref in self._sources.items() if n < self._plan.num_blocks}
        return actions

    def _seal_disagrees(self) -> bool:
        return False

    def _refuse(self) -> list[tx.SenderAction]:
        return []

    @property
    def _num_blocks(self) -> int:
        return 99


def _whole(grant: KvGrant) -> KvGrant:
    fields = {name: getattr(grant, name) for name in grant.__dataclass_fields__}
    return KvGrant(**{**fields, "first_ordinal": 0, "claim": b""})


class NoClaim(HandoverSender):
    """Mutant: whatever the grant claims is believed, and sealed."""

    def _on_grant(self, now_s: float, event: tx.Granted) -> list[tx.SenderAction]:
        return super()._on_grant(now_s, tx.Granted(event.grant, event.grant.claim))


class NeverReturns(BlockTable):
    """Mutant: an attempt that ends goes on reading what it borrowed."""

    def release_all(self, key: AttemptKey) -> int:
        kept = self.borrowed(key)
        count = super().release_all(key)
        super().borrow(key, kept)
        return count


def _any_tenant(cached: dict[bytes, BlockRef], word: Word) -> list[bytes]:
    """A broken index: tenants share names."""
    own = _found(cached, word)
    return own or _found(cached, ("A" if word[0] == "B" else "B", *word[1:]))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        pytest.param({"sender": OffByOne}, "torn or foreign KV was adopted", id="wrong-first-ordinal"),
        pytest.param({"borrows": False}, "torn or foreign KV|that is decoded from changed", id="reference-dropped"),
        pytest.param({"target_table": NeverReturns}, "never given back", id="reference-kept"),
        pytest.param({"look_up": _any_tenant, "sender": NoClaim}, "torn or foreign KV was adopted", id="no-claim"),
        pytest.param(
            {"look_up": _any_tenant, "names_what_it_asked": True},
            "torn or foreign KV was adopted",
            id="claim-of-what-was-asked",
        ),
    ],
)
def test_mutant_is_found(change: dict[str, Any], problem: str) -> None:
    hunt(machine(DeltaBuild(**change)), problem, errors=(Violation, IntegrityError), num_examples=300)


def test_a_broken_index_costs_an_attempt_and_never_a_byte() -> None:
    """Control of the two mutants above: with the claim, foreign cached blocks are refused by name."""
    checked = machine(DeltaBuild(look_up=_any_tenant))
    walk(checked, num_examples=40)
    assert checked.totals["KV_PREFIX_MISMATCH"] > 5


def _mac_without_range(*args: Any, sent: SealedRange, **more: Any) -> bytes:
    return seal_mac(*args, sent=SealedRange(num_blocks=sent.num_blocks), **more)


class BelievesOpen(receiving_machine.HandoverReceiver):
    """Peels the check of the announced range, so that the seal's alone is left."""

    def _on_opened(self, now_s: float, event: Any) -> list[Any]:
        first = self._grant.first_ordinal
        fields = {name: getattr(event.frame, name) for name in event.frame.__dataclass_fields__}
        frame = type(event.frame)(**{**fields, "first_ordinal": first})
        return super()._on_opened(now_s, type(event)(frame))


def test_a_digest_over_the_wrong_range_is_found() -> None:
    """A sender that sends the wrong blocks whole: the seal's range alone stands against it."""
    build = DeltaBuild(sender=FromZero, receiver=BelievesOpen)
    walk(machine(build), num_examples=60)
    with (
        patch.object(sending_machine, "seal_mac", _mac_without_range),
        patch.object(receiving_machine, "seal_mac", _mac_without_range),
    ):
        hunt(machine(build), "torn or foreign KV was adopted", num_examples=300)


@pytest.mark.parametrize("num_cached", [0, 1, 2, 3])
def test_bytes_that_travel_are_those_that_lack(num_cached: int) -> None:
    world, word = DeltaWorld(DeltaBuild()), ("A", "x", "y", "x")
    for number, (spoken, num_chunks) in enumerate(
        [((*word[: num_cached + 1],), 2 * num_cached), (word, 6 - 2 * num_cached)]
    ):
        if len(spoken) < 2:
            continue
        key = AttemptKey(RequestId(f"{number:032x}"), 0)
        world.counts.clear()
        world.fill(key, spoken)
        world.reserve(key)
        in_order(world)
        assert key in world.decoding
        assert world.counts["chunks"] == num_chunks
    assert set(world.cached) == {name_of(word, n) for n in (1, 2, 3)}
    world.close_down()
