"""The searches of ``make spec``: which model, under which flags, and what must come out. See docs/spec/README.md."""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What a run is for. BASE and REDUNDANT must be clean, MUTANT and REACHED must give a counterexample."""

    BASE = "base"
    MUTANT = "mutant"
    REDUNDANT = "redundant"  # one of several places of a rule is removed: the others make it good
    REACHED = "reached"  # a state that must be reachable is claimed not to be


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One search."""

    kind: Kind
    model: str
    name: str
    flags: tuple[str, ...]
    quick: bool = False


TWO_REQUESTS = ("NR=2", "NA=1")
TWO_ATTEMPTS = ("NR=1", "NA=2")
_ONE_SIDED = ("NO_GEN", "NCRASH=0")
_DRAINED = (*_ONE_SIDED, "QUAR", "QGRANT", "QDRAIN")


def _kv(kind: Kind, name: str, pool: tuple[str, ...], *flags: str, quick: bool = False) -> Run:
    return Run(kind=kind, model="kv", name=name, flags=(*pool, *flags), quick=quick)


def _reuse(kind: Kind, name: str, *flags: str, quick: bool = False) -> Run:
    return Run(kind=kind, model="kv_reuse", name=name, flags=flags, quick=quick)


def _one(kind: Kind, name: str, *flags: str) -> Run:
    return Run(kind=kind, model="one_sided", name=name, flags=flags)


def _flip(kind: Kind, name: str, *flags: str, quick: bool = False) -> Run:
    return Run(kind=kind, model="flip", name=name, flags=flags, quick=quick)


def _delta(kind: Kind, name: str, *flags: str, quick: bool = False) -> Run:
    return Run(kind=kind, model="delta", name=name, flags=flags, quick=quick)


RUNS: tuple[Run, ...] = (
    _flip(Kind.BASE, "role switch"),
    _delta(Kind.BASE, "delta: D leaves out what it has cached", quick=True),
    _delta(Kind.BASE, "delta: D's index is broken", "BAD_INDEX"),
    _delta(Kind.BASE, "delta: P sends other blocks than were granted", "FROM_ZERO"),
    _delta(Kind.REACHED, "delta: KV with a borrowed block is adopted", "REACH_DELTA", quick=True),
    _kv(Kind.BASE, "two requests, cancel", TWO_REQUESTS, "NCANCEL=1"),
    _kv(Kind.BASE, "two requests, D dies", TWO_REQUESTS, "NCRASH_D=1"),
    _kv(Kind.BASE, "two requests, a flipped byte", TWO_REQUESTS, "NFLIP=1"),
    _kv(Kind.BASE, "two attempts, an engine fails one", TWO_ATTEMPTS, "NENGINE=1"),
    _kv(Kind.BASE, "two attempts, cancel", TWO_ATTEMPTS, "NCANCEL=1", quick=True),
    _kv(Kind.BASE, "two attempts, D dies", TWO_ATTEMPTS, "NCRASH_D=1"),
    _kv(Kind.BASE, "two attempts, P dies", TWO_ATTEMPTS, "NCRASH_P=1"),
    _reuse(Kind.BASE, "reuse: D dies, cancel, another tenant", quick=True),
    _one(Kind.BASE, "one-sided: counted at grant, remote completion", *_DRAINED),
    _kv(Kind.REACHED, "a request ends well", TWO_REQUESTS, "REACH_DONE", quick=True),
    _kv(Kind.REACHED, "a second attempt ends well", TWO_ATTEMPTS, "REACH_RETRY", quick=True),
    _kv(Kind.REACHED, "a request ends well after D came back", TWO_ATTEMPTS, "NCRASH_D=1", "REACH_RESTART"),
    _kv(Kind.REACHED, "the last unpin frees a released block", TWO_REQUESTS, "REACH_LATE"),
    _reuse(Kind.REACHED, "reuse: another D takes the KV that was kept", "REACH_REUSE"),
    _reuse(Kind.REACHED, "reuse: nothing is held any more", "REACH_REFUSED"),
    _reuse(Kind.REACHED, "reuse: the first D's Commit comes after all", "REACH_LATE_COMMIT"),
    _one(Kind.REACHED, "one-sided: a request ends well", *_DRAINED, "REACH"),
    _flip(Kind.REACHED, "a role is switched", "REACH", quick=True),
    _kv(Kind.MUTANT, "R2 generation", TWO_ATTEMPTS, "NO_GEN", "NO_ATTEMPT", quick=True),
    _kv(
        Kind.MUTANT,
        "R2 generation, R4 digest: foreign KV is read",
        TWO_ATTEMPTS,
        *("NO_GEN", "NO_ATTEMPT", "NO_DIGEST", "NO_SEAL", "ONLY_I1"),
    ),
    _kv(Kind.MUTANT, "R2 epoch", TWO_ATTEMPTS, "NCRASH_D=1", "NO_EPOCH", "NO_ATTEMPT"),
    _kv(
        Kind.MUTANT,
        "R2 epoch, R4 digest: foreign KV is read",
        TWO_ATTEMPTS,
        *("NCRASH_D=1", "NO_EPOCH", "NO_ATTEMPT", "NO_DIGEST", "NO_SEAL", "ONLY_I1"),
    ),
    _kv(Kind.MUTANT, "R2 in the block table", TWO_REQUESTS, "NO_TABLE_GEN", "NO_TABLE_OWNER"),
    _kv(Kind.MUTANT, "R3 source: foreign KV is read", TWO_REQUESTS, "NENGINE=1", "NO_SRC", "ONLY_I1"),
    _kv(Kind.MUTANT, "R3 pin of the source: foreign KV is read", TWO_REQUESTS, "NENGINE=1", "NO_SRC_PIN"),
    _kv(Kind.MUTANT, "R5 pin of the destination", TWO_REQUESTS, "NO_DST_PIN", quick=True),
    _kv(Kind.MUTANT, "R5 last unpin: a block is lost", TWO_REQUESTS, "NO_UNPIN_FREE"),
    _kv(Kind.MUTANT, "R4 count: torn KV", TWO_REQUESTS, "NO_COUNT", "NO_SEAL", "ONLY_I1"),
    _kv(Kind.MUTANT, "R4 digest: a flipped byte is read", TWO_REQUESTS, "NFLIP=1", "NO_DIGEST", "NO_SEAL", quick=True),
    _kv(Kind.MUTANT, "R6 a chunk twice: a writer at commit", TWO_REQUESTS, "NO_DUP"),
    _kv(
        Kind.MUTANT,
        "R6 a chunk twice: decoding's own KV overwritten",
        TWO_REQUESTS,
        *("NO_DUP", "NO_TABLE_STATE", "ONLY_I1"),
    ),
    _kv(Kind.MUTANT, "R6 an old abort frees another's block", TWO_REQUESTS, "NO_FREE_KEY"),
    _kv(Kind.MUTANT, "R7 the ledger takes an old attempt's report", TWO_ATTEMPTS, "NO_LEDGER"),
    _kv(Kind.MUTANT, "no lease and P not told: a leak", TWO_REQUESTS, "NCRASH_D=1", "NO_LEASE", "NO_ABORT_P"),
    _reuse(
        Kind.MUTANT,
        "reuse after the blocks were freed: foreign KV is read",
        *("NO_HELD_CHECK", "NO_SRC_OWNER", "NO_SRC_GEN"),
        quick=True,
    ),
    _reuse(Kind.MUTANT, "reuse: owner and generation not compared", "NO_SRC_OWNER", "NO_SRC_GEN"),
    _reuse(
        Kind.MUTANT,
        "reuse: an old Commit frees what is offered again: foreign KV",
        *("NO_COMMIT_KEY", "NO_SRC_OWNER", "NO_SRC_GEN"),
    ),
    _reuse(Kind.MUTANT, "reuse: P holds for ever and is not told: a leak", "NO_HOLD_END", "NO_DROP"),
    _reuse(Kind.MUTANT, "reuse: the last unpin frees nothing: a leak", "NO_UNPIN_FREE"),
    _one(Kind.MUTANT, "R9 no quarantine", *_ONE_SIDED),
    _one(Kind.MUTANT, "R9 writer counted at start", *_ONE_SIDED, "QUAR"),
    _one(Kind.MUTANT, "R9 done is local completion", *_ONE_SIDED, "QUAR", "QGRANT"),
    _one(Kind.MUTANT, "R9 taken back on a timer", *_DRAINED, "QTIMEOUT"),
    _one(Kind.MUTANT, "R9 a writer dies silently: a leak", *_DRAINED, "SDIE"),
    _delta(Kind.MUTANT, "delta: what is left out is not borrowed: torn KV", "NO_BORROW", quick=True),
    _delta(Kind.MUTANT, "delta: what was borrowed is not given back: a leak", "NO_RETURN"),
    _delta(Kind.MUTANT, "delta: nobody compares claims: foreign KV", "BAD_INDEX", "NO_CLAIM", quick=True),
    _delta(Kind.MUTANT, "delta: a claim of what was asked for: foreign KV", "BAD_INDEX", "ASKED_CLAIM"),
    _delta(Kind.MUTANT, "delta: the seal leaves its range out: torn KV", "FROM_ZERO", "NO_RANGE"),
    _flip(Kind.MUTANT, "flip: no fencing term", "NO_FENCE"),
    _flip(Kind.MUTANT, "flip: no claim before reading", "NO_CLAIM"),
    _flip(Kind.MUTANT, "flip: no order within a term", "NO_SEQ", quick=True),
    _flip(Kind.MUTANT, "flip: view from the store", "STALE_VIEW"),
    _reuse(Kind.REDUNDANT, "reuse: the engine is not asked (the pin holds)", "NO_HELD_CHECK"),
    _reuse(Kind.REDUNDANT, "reuse: owner at the pin (generation holds)", "NO_SRC_OWNER"),
    _reuse(Kind.REDUNDANT, "reuse: generation at the pin (owner holds)", "NO_SRC_GEN"),
    _reuse(Kind.REDUNDANT, "reuse: an old Commit frees it (the pin holds)", "NO_COMMIT_KEY"),
    _reuse(Kind.REDUNDANT, "reuse: the old hand-over goes on (the pin holds)", "NO_SENDER_END"),
    _reuse(Kind.REDUNDANT, "reuse: P holds for ever (the router's word holds)", "NO_HOLD_END"),
    _reuse(Kind.REDUNDANT, "reuse: P is not told (lease and hold end)", "NO_DROP"),
    _kv(Kind.REDUNDANT, "attempt in the tag (epoch, generation hold)", TWO_ATTEMPTS, "NCRASH_D=1", "NO_ATTEMPT"),
    _kv(Kind.REDUNDANT, "epoch (attempt holds)", TWO_ATTEMPTS, "NCRASH_D=1", "NO_EPOCH"),
    _kv(Kind.REDUNDANT, "generation in the machine (attempt holds)", TWO_ATTEMPTS, "NO_GEN"),
    _kv(Kind.REDUNDANT, "generation in the table (owner holds)", TWO_REQUESTS, "NO_TABLE_GEN"),
    _kv(Kind.REDUNDANT, "owner in the table (generation holds)", TWO_REQUESTS, "NO_TABLE_OWNER"),
    _kv(Kind.REDUNDANT, "bitmap (the seal's MAC holds)", TWO_ATTEMPTS, "NFLIP=1", "NO_COUNT"),
    _kv(Kind.REDUNDANT, "seal's MAC (digests and bitmap hold)", TWO_ATTEMPTS, "NFLIP=1", "NO_SEAL"),
    _kv(Kind.REDUNDANT, "chunk digest (the seal's MAC holds)", TWO_ATTEMPTS, "NFLIP=1", "NO_DIGEST"),
    _kv(Kind.REDUNDANT, "lease (the router's abort holds)", TWO_ATTEMPTS, "NCRASH_D=1", "NO_LEASE"),
    _kv(Kind.REDUNDANT, "the router's abort to P (the lease holds)", TWO_ATTEMPTS, "NCRASH_D=1", "NO_ABORT_P"),
)

LONG_RUNS: tuple[Run, ...] = (
    _kv(Kind.BASE, "two requests, an engine fails one", TWO_REQUESTS, "NENGINE=1"),
    _kv(Kind.BASE, "two requests, cancel, D dies", TWO_REQUESTS, "NCANCEL=1", "NCRASH_D=1"),
    _kv(Kind.BASE, "two requests, both die", TWO_REQUESTS, "NCRASH_D=1", "NCRASH_P=1"),
    _kv(Kind.BASE, "two attempts, cancel, both die", TWO_ATTEMPTS, "NCANCEL=1", "NCRASH_D=1", "NCRASH_P=1"),
    _kv(Kind.BASE, "two attempts, two frames twice, an engine fails", TWO_ATTEMPTS, "NDUP=2", "NENGINE=1"),
    _flip(Kind.REDUNDANT, "flip: the worker's own drain check (the controller's question holds)", "NO_DRAINCHK"),
)
