"""The routers' shared reservations without Redis: one book, and per router a `Reserver` that answers when told."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tandem.router.actions import WorkerKey
from tandem.router.candidates import Candidate
from tandem.router.sharing import Answer, OnAnswer, Ticket


@dataclass(slots=True)
class Book:
    """What is reserved: the load of each worker by name of the reservation."""

    loads: dict[WorkerKey, dict[tuple[int, Ticket], float]] = field(default_factory=dict)

    def select(self, name: tuple[int, Ticket], candidates: Sequence[Candidate]) -> WorkerKey:
        """As the script does: lowest base + max(queued, reserved), the first of equals."""
        best = min(candidates, key=lambda one: one.base_s + max(one.queued_s, self.reserved_s(one.worker)))
        self.loads.setdefault(best.worker, {})[name] = best.load_s
        return best.worker

    def reserved_s(self, worker: WorkerKey) -> float:
        """Sum over all routers."""
        return sum(self.loads.get(worker, {}).values())

    @property
    def num_reservations(self) -> int:
        """How many there are."""
        return sum(len(loads) for loads in self.loads.values())


@dataclass(slots=True, kw_only=True)
class Asking:
    """An ask without an answer yet."""

    ticket: Ticket
    candidates: Sequence[Candidate]
    on_answer: OnAnswer


class FakeReserver:
    """One router's way to ``book``. Asks wait until the test answers them."""

    def __init__(self, book: Book | None = None, *, router: int = 0) -> None:
        self.book = book or Book()
        self.asked: list[Asking] = []
        self.told: list[tuple[Ticket, Candidate]] = []
        self.released: list[tuple[Ticket, WorkerKey]] = []
        self._router = router

    def ask(self, ticket: Ticket, candidates: Sequence[Candidate], on_answer: OnAnswer) -> None:
        """Keep it."""
        self.asked.append(Asking(ticket=ticket, candidates=tuple(candidates), on_answer=on_answer))

    def tell(self, ticket: Ticket, candidate: Candidate) -> None:
        """Reserve at once."""
        self.told.append((ticket, candidate))
        self.book.select((self._router, ticket), [candidate])

    def release(self, ticket: Ticket, worker: WorkerKey) -> None:
        """Strike it out; it must be there."""
        self.released.append((ticket, worker))
        del self.book.loads[worker][self._router, ticket]

    def answer(self, worker: WorkerKey | None = None, *, index: int = 0) -> WorkerKey:
        """Answer an ask by the book, or with ``worker``, which is reserved then."""
        asking = self.asked.pop(index)
        candidates = [one for one in asking.candidates if worker in (None, one.worker)]
        chosen = self.book.select((self._router, asking.ticket), candidates)
        asking.on_answer(asking.ticket, Answer(worker=chosen))
        return chosen

    def answer_all(self) -> None:
        """Answer every ask, and those that come of it."""
        while self.asked:
            self.answer()

    def miss(self, reason: str = "late", *, index: int = 0) -> None:
        """Answer that there is no reservation."""
        asking = self.asked.pop(index)
        asking.on_answer(asking.ticket, Answer(missed=reason))
