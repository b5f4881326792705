"""Whether a scenario showed what it is for: a fault that did not come, or was not felt, proves nothing. Pure."""

from collections.abc import Callable, Iterator, Mapping

from benchmarks.controller_world.judging import Outcome

WHOLE_AGAIN_S = 15.0  # from a death to the split of before: a process starts beside seven others, and is switched
FEWEST_REFUSED = 1


def not_proven(outcome: Outcome) -> list[str]:
    """Return what the scenario should have shown and did not, in words; empty = all of it."""
    proof = _PROOFS.get(outcome.name)
    return [] if proof is None else [f"{outcome.name}: {reason}" for reason in proof(outcome)]


def _stale(outcome: Outcome) -> Iterator[str]:
    facts = outcome.facts
    if not facts.get("rounds_frozen"):
        yield "no round froze while the metrics were cut"
    if facts.get("moves_while_stale") != 0:
        yield f"{facts.get('moves_while_stale')} moves were begun while the metrics were cut"
    if not any(one.facts.get("wished") not in (None, one.facts.get("current")) for one in outcome.rounds):
        yield "no round wanted another split: there was nothing to hold back"


def _shifts(outcome: Outcome) -> Iterator[str]:
    if not outcome.moves:
        yield "no move was needed"


def _loss(outcome: Outcome) -> Iterator[str]:
    whole_s = outcome.facts.get("split_whole_again_s", ())
    if len(whole_s) != 2:
        yield f"{len(whole_s)} of 2 workers were killed"
    for took_s in whole_s:
        yield from _in_time("the split was whole again after a death", took_s)


def _killed(outcome: Outcome) -> Iterator[str]:
    facts = outcome.facts
    points, hit = facts.get("points", ()), facts.get("points_hit", ())
    if missed := [point for point in points if point not in hit]:
        yield f"the controller did not come to {', '.join(missed)}"
    if not points or facts.get("controller_deaths", 0) < len(points):
        yield f"it died {facts.get('controller_deaths', 0)} times, not at each of {len(points)} points"
    took: Mapping[str, float | None] = facts.get("seconds_to_the_split_after_each_kill", {})
    for point in hit:
        yield from _in_time(f"the split was there after {point}", took.get(point))


def _two(outcome: Outcome) -> Iterator[str]:
    facts = outcome.facts
    wanted = {
        "first_led": "the first one did not lead",
        "stood_still": "the first one was not stopped in the middle of a move",
        "other_led": "the second one did not lead under a higher term",
        "split_reached": "the second one did not bring the split about",
        "split_stayed": "the split did not stay when the first one went on",
    }
    yield from (reason for name, reason in wanted.items() if facts.get(name) is not True)
    if facts.get("orders_refused", 0) < FEWEST_REFUSED:
        yield "no order of the first one was refused for its term: the fence was not needed"


def _in_time(what: str, took_s: float | None) -> Iterator[str]:
    if took_s is None or took_s > WHOLE_AGAIN_S:
        yield f"{what}: {'never' if took_s is None else f'{took_s} s'}, must be at most {WHOLE_AGAIN_S:g} s"


_PROOFS: Mapping[str, Callable[[Outcome], Iterator[str]]] = {
    "stale metrics": _stale,
    "prompt-heavy, answer-heavy, prompt-heavy": _shifts,
    "step x3": _shifts,
    "worker loss": _loss,
    "controller killed": _killed,
    "two controllers": _two,
}
