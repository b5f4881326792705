"""Hand-made runs for the checker: the events of a router, a prefill and a decode worker, as they would be logged."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tandem.chaos.trace import Checker, Excused, Report
from tandem.chaos.trace.roles import never_excused
from tandem.core.blocks import BlockRef
from tandem.core.event_log import events as ev
from tandem.core.event_log.record import ProcessLife
from tandem.core.types import Role

ROUTER = ProcessLife("router-0", 100)
PREFILL = ProcessLife("prefill-0", 200)
DECODE = ProcessLife("decode-0", 300)
R = "request-a"
S = "request-b"


def ref(block_id: int, generation: int = 1) -> BlockRef:
    """Name a use of a block."""
    return BlockRef(block_id, generation)


@dataclass(slots=True)
class Told:
    """One event of the story."""

    process: ProcessLife
    at_s: float
    event: ev.Event


@dataclass
class Story:
    """Events in order; every method adds the normal course of one thing."""

    told: list[Told] = field(default_factory=list)
    now_s: float = 0.0

    def tell(self, process: ProcessLife, *events: ev.Event, after_s: float = 0.01) -> None:
        """Add events, ``after_s`` apart."""
        for event in events:
            self.now_s += after_s
            self.told.append(Told(process, self.now_s, event))

    def begin(self) -> None:
        """Start everybody."""
        for process in (ROUTER, PREFILL, DECODE):
            self.tell(process, ev.LogOpened(version=1, host="h", pid=1))
        self.tell(PREFILL, ev.RoleChanged(role=Role.PREFILL, state="serving"))
        self.tell(DECODE, ev.RoleChanged(role=Role.DECODE, state="serving"))
        self.tell(ROUTER, ev.WorkerJudged(worker=DECODE.name, worker_epoch=DECODE.epoch, health="alive"))

    def accept(self, request: str = R, attempt: int = 0) -> None:
        """The router takes a request and sends it out."""
        self.tell(ROUTER, ev.RequestAccepted(request=request, num_sequences=1), dispatched(request, attempt))

    def prefill(self, refs: Sequence[BlockRef], request: str = R, attempt: int = 0) -> None:
        """P computes and seals the prompt."""
        self.tell(
            PREFILL,
            ev.BlocksAllocated(request=request, attempt=attempt, state="filling", blocks=tuple(refs)),
            ev.BlocksSealed(blocks=tuple(refs)),
            ev.HandoverSealed(request=request, attempt=attempt, num_blocks=len(refs)),
        )

    def grant(self, refs: Sequence[BlockRef], request: str = R, attempt: int = 0) -> None:
        """D reserves and grants."""
        self.tell(
            DECODE,
            ev.BlocksAllocated(request=request, attempt=attempt, state="receiving", blocks=tuple(refs)),
            ev.GrantMade(request=request, attempt=attempt, blocks=tuple(refs), deadline_left_s=30.0),
        )

    def transfer(
        self, sources: Sequence[BlockRef], targets: Sequence[BlockRef], request: str = R, attempt: int = 0
    ) -> None:
        """P sends every block, D takes and commits them."""
        for seq, (source, target) in enumerate(zip(sources, targets, strict=True)):
            self.tell(PREFILL, pinned(source, "read", request, attempt), ev.BlockUnpinned(block=source))
            self.tell(
                DECODE,
                pinned(target, "write", request, attempt),
                accepted(target, seq=seq, request=request, attempt=attempt),
                ev.BlockUnpinned(block=target),
            )
        self.tell(
            DECODE,
            ev.HandoverCommitted(request=request, attempt=attempt),
            ev.GrantEnded(request=request, attempt=attempt, how="committed"),
            ev.BlocksCommitted(request=request, attempt=attempt, blocks=tuple(targets)),
        )
        self.tell(PREFILL, ev.CommitAcknowledged(request=request, attempt=attempt))
        self.tell(PREFILL, ev.BlocksFreed(blocks=tuple(sources)))

    def decode(self, refs: Sequence[BlockRef], positions: Iterable[int], request: str = R, attempt: int = 0) -> None:
        """D decodes, the router forwards."""
        for position in positions:
            self.tell(DECODE, step(refs, request, attempt, num_tokens=20 + position))
            self.tell(ROUTER, forwarded(position, request))

    def end(self, num_tokens: int, request: str = R) -> None:
        """The router ends the request."""
        self.tell(ROUTER, usage(num_tokens, request), ended(num_tokens, request))

    def close(self) -> None:
        """Everybody ends in order."""
        self.tell(ROUTER, ev.LogClosed())
        for process, role in ((PREFILL, Role.PREFILL), (DECODE, Role.DECODE)):
            self.tell(process, ev.RoleChanged(role=role, state="draining"))
            self.tell(process, ev.RoleChanged(role=role, state="stopped"), ev.LogClosed())

    def index(self, kind: type[ev.Event], number: int = 0) -> int:
        """Where the ``number``-th event of a kind stands."""
        return [at for at, told in enumerate(self.told) if isinstance(told.event, kind)][number]

    def judge(self, *, check_serving: bool = True, excused: Excused = never_excused) -> Report:
        """Feed a checker."""
        checker = Checker(check_serving=check_serving, excused=excused)
        for told in self.told:
            checker.feed(told.process, told.event, at_s=told.at_s)
        return checker.finish()


def good_story() -> Story:
    """Two requests, one after the other, over the same blocks; nothing is wrong."""
    story = Story()
    story.begin()
    for generation, request in ((1, R), (2, S)):
        sources, targets = [ref(5, generation), ref(6, generation)], [ref(0, generation), ref(1, generation)]
        story.accept(request)
        story.grant(targets, request)
        story.prefill(sources, request)
        story.tell(ROUTER, forwarded(0, request))
        story.transfer(sources, targets, request)
        story.decode(targets, range(1, 4), request)
        story.end(4, request)
        story.tell(DECODE, ev.BlocksFreed(blocks=tuple(targets)))
    story.close()
    return story


def pinned(block: BlockRef, purpose: ev.PinPurpose, request: str = R, attempt: int = 0) -> ev.BlockPinned:
    return ev.BlockPinned(request=request, attempt=attempt, block=block, purpose=purpose)


def accepted(
    target: BlockRef,
    *,
    named: BlockRef | None = None,
    seq: int = 0,
    epoch: int = DECODE.epoch,
    request: str = R,
    attempt: int = 0,
) -> ev.ChunkAccepted:
    named = target if named is None else named
    return ev.ChunkAccepted(request=request, attempt=attempt, seq=seq, epoch=epoch, named=named, target=target)


def step(
    refs: Sequence[BlockRef], request: str = R, attempt: int = 0, *, child: int = 0, num_tokens: int = 20
) -> ev.DecodeStep:
    return ev.DecodeStep(rows=(ev.StepRow(request, attempt, child, num_tokens, tuple(refs)),))


def dispatched(request: str = R, attempt: int = 0) -> ev.Dispatched:
    return ev.Dispatched(
        request=request,
        attempt=attempt,
        prefill=PREFILL.name,
        prefill_epoch=PREFILL.epoch,
        decode=DECODE.name,
        decode_epoch=DECODE.epoch,
    )


def forwarded(position: int, request: str = R, *, child: int = 0, count: int = 1) -> ev.TokensForwarded:
    return ev.TokensForwarded(request=request, child=child, position=position, count=count)


def usage(num_tokens: int, request: str = R) -> ev.UsageRecorded:
    return ev.UsageRecorded(request=request, num_prompt_tokens=20, num_output_tokens=num_tokens)


def ended(num_tokens: int, request: str = R, outcome: str = "ok") -> ev.RequestEnded:
    return ev.RequestEnded(request=request, outcome=outcome, reason="", num_output_tokens=num_tokens)
