"""The circuit breakers of pairs under any order of placements, verdicts, ends and time."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from tandem.core import reasons
from tandem.core.blocks import AttemptKey
from tandem.core.ids import RequestId
from tandem.router.actions import Pair
from tandem.router.pairs import PairBreakers, PairPolicy
from tests.stateful.running import require
from tests.unit.router.builders import D2, P2, D, P

PAIRS = [Pair(prefill=p, decode=d) for p in (P, P2) for d in (D, D2)]
POLICY = PairPolicy(failures_to_open=2, probe_after_s=10.0)
some_pair = st.sampled_from(PAIRS)


class PairsMachine(RuleBasedStateMachine):
    """Subclasses choose the breakers: production or a mutant. What is known of a pair is counted here once more."""

    breakers_class: type[PairBreakers] = PairBreakers

    def __init__(self) -> None:
        super().__init__()
        self.breakers = self.breakers_class(POLICY)
        self.now_s = 0.0
        self.num_failures = dict.fromkeys(PAIRS, 0)  # since its last good hand-over
        self.open_since_s: dict[Pair, float] = {}
        self.probers: dict[Pair, AttemptKey] = {}
        self.running: dict[AttemptKey, Pair] = {}
        self.num_attempts = 0

    def is_blocked(self, pair: Pair) -> bool:
        since_s = self.open_since_s.get(pair)
        return since_s is not None and (pair in self.probers or self.now_s < since_s + POLICY.probe_after_s)

    def agree(self) -> None:
        blocked = self.breakers.blocked(self.now_s)
        for pair in PAIRS:
            if pair in blocked and not self.is_blocked(pair):
                require(pair in self.open_since_s, "a pair is left alone without cause")
                require(False, "a pair whose probe is due is not tried")
            require(pair in blocked or not self.is_blocked(pair), "a pair that is left alone is used")
        require(
            {s.num_failures for s in self.breakers.statuses(self.now_s)} <= {*self.num_failures.values()}, "miscount"
        )

    @rule(pair=some_pair)
    def place(self, pair: Pair) -> None:
        if pair in self.breakers.blocked(self.now_s):
            return
        self.num_attempts += 1
        key = AttemptKey(request_id=RequestId("r"), attempt=self.num_attempts)
        self.breakers.placed(pair, key)
        self.running[key] = pair
        if pair in self.open_since_s:
            require(pair not in self.probers, "two probe at once")
            self.probers[pair] = key
        self.agree()

    @precondition(lambda self: self.running)
    @rule(data=st.data(), verdict=st.sampled_from(["worked", "failed", "none"]))
    def end(self, data: st.DataObject, verdict: str) -> None:
        key = data.draw(st.sampled_from(sorted(self.running, key=str)))
        pair = self.running.pop(key)
        match verdict:
            case "worked":
                self.breakers.worked(pair)
                self.num_failures[pair] = 0
                self.open_since_s.pop(pair, None)
                self.probers.pop(pair, None)
            case "failed":
                self.breakers.failed(pair, reasons.KV_TIMEOUT, self.now_s)
                self._fail(pair)
            case _:
                pass
        self.breakers.attempt_over(key)
        if self.probers.get(pair) == key:
            del self.probers[pair]
        self.agree()

    def _fail(self, pair: Pair) -> None:
        self.num_failures[pair] += 1
        was_probe = self.probers.pop(pair, None) is not None
        if was_probe or (pair not in self.open_since_s and self.num_failures[pair] >= POLICY.failures_to_open):
            self.open_since_s[pair] = self.now_s

    @rule(pair=some_pair)
    def cut(self, pair: Pair) -> None:
        """Nothing passes between the two: what is tried fails until the pair is left alone."""
        for _ in range(POLICY.failures_to_open):
            if pair not in self.breakers.blocked(self.now_s):
                self.place(pair)
                key = next(k for k, p in reversed(self.running.items()) if p == pair)
                del self.running[key]
                self.breakers.failed(pair, reasons.KV_PEER_LOST, self.now_s)
                self._fail(pair)
                self.breakers.attempt_over(key)
        self.agree()

    @rule(pair=some_pair, late=st.booleans(), verdict=st.booleans())
    def probe(self, pair: Pair, late: bool, verdict: bool) -> None:
        """A pair that is shut, what fails there late, and a probe that may end without a verdict."""
        self.place(pair)
        self.cut(pair)
        self.wait(4.0)
        for key in [key for key, p in self.running.items() if p == pair and late]:
            del self.running[key]
            self.breakers.failed(pair, reasons.KV_TIMEOUT, self.now_s)
            self._fail(pair)
            self.breakers.attempt_over(key)
        self.wait(6.0)
        num_before = self.num_attempts
        self.place(pair)
        if verdict and self.num_attempts > num_before:
            key = next(reversed(self.running))
            self.running.pop(key)
            self.breakers.attempt_over(key)
            self.probers.pop(pair, None)
        self.agree()

    @rule(worker=st.sampled_from([P, P2, D, D2]))
    def lose(self, worker: object) -> None:
        """A life ends: what failed with it says nothing about the next."""
        self.breakers.forget(worker)  # type: ignore[arg-type]
        for pair in PAIRS:
            if worker in (pair.prefill, pair.decode):
                self.num_failures[pair] = 0
                self.open_since_s.pop(pair, None)
                self.probers.pop(pair, None)
        self.running = {k: p for k, p in self.running.items() if worker not in (p.prefill, p.decode)}
        self.agree()

    @rule(seconds=st.sampled_from([0.5, 4.0, 10.0, 11.0]))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.agree()
