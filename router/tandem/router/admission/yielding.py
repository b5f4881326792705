"""Which running batch request gives its place to an interactive one that lacks a slot or blocks. Pure.

Its workers let go, and it waits in the queue again, behind what is more urgent; later it goes on from the tokens its
caller has, which computes their KV once more. So the one with the least to compute again is chosen, and each at most
once: a request that is moved about for ever would never end.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tandem.core.ids import RequestId
from tandem.router.actions import WorkerKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Yielder:
    """A batch request that decodes and has not yielded before."""

    request_id: RequestId
    decode: WorkerKey
    num_blocks: int
    num_tokens: int  # to be computed again


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeRoom:
    """What one decode worker has free, and what the waiting request needs there."""

    worker: WorkerKey
    free_slots: int
    free_blocks: int
    needed_blocks: int


def who_yields(rooms: Iterable[DecodeRoom], running: Iterable[Yielder], *, num_sequences: int) -> Sequence[RequestId]:
    """Return the fewest requests of one worker that together make room, cheapest first; none if that can't be."""
    best: list[Yielder] = []
    candidates = sorted(running, key=lambda y: (y.num_tokens, y.request_id))
    for room in rooms:
        slots, blocks, chosen = room.free_slots, room.free_blocks, list[Yielder]()
        for one in candidates:
            if slots >= num_sequences and blocks >= room.needed_blocks:
                break
            if one.decode == room.worker:
                chosen.append(one)
                slots, blocks = slots + 1, blocks + one.num_blocks
        is_enough = slots >= num_sequences and blocks >= room.needed_blocks
        if is_enough and chosen and (not best or _cost(chosen) < _cost(best)):
            best = chosen
    return [one.request_id for one in best]


def _cost(chosen: Sequence[Yielder]) -> tuple[int, int]:
    return len(chosen), sum(one.num_tokens for one in chosen)
