"""L7: every request is booked exactly once, with the tokens that its caller got. Reads event logs."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from tandem.chaos.cluster.records import Ending, RequestRecord
from tandem.core.event_log.events import LogClosed, RequestAccepted, RequestEnded, TokensForwarded, UsageRecorded
from tandem.core.event_log.record import Record, decode_line


@dataclass(slots=True)
class _Books:
    """What one router life wrote about requests."""

    accepted: set[str] = field(default_factory=set)
    ended: Counter[str] = field(default_factory=Counter)
    booked: dict[str, list[UsageRecorded]] = field(default_factory=dict)
    forwarded: Counter[str] = field(default_factory=Counter)
    is_closed: bool = False


def check_usage(paths: Iterable[Path], records: Sequence[RequestRecord] = ()) -> list[str]:
    """Return what is not booked exactly once, over the routers' logs among ``paths``.

    A router life that was killed may owe its last requests; what it booked it must still have booked once only.
    """
    problems: list[str] = []
    booked: dict[str, UsageRecorded] = {}
    owed: set[str] = set()
    for path in paths:
        books = _read(path)
        problems += _check_life(books)
        booked |= {request: entries[0] for request, entries in books.booked.items()}
        owed |= set() if books.is_closed else books.accepted - set(books.ended)
    for record in records:
        if record.request_id and record.ending is Ending.OK:
            problems += _check_record(record, booked.get(record.request_id), is_owed=record.request_id in owed)
    return problems


def _check_life(books: _Books) -> list[str]:
    problems = [f"L7 request {request} ended {count} times" for request, count in books.ended.items() if count > 1]
    for request, entries in books.booked.items():
        if len(entries) > 1:
            problems.append(f"L7 request {request} was booked {len(entries)} times")
        if request not in books.accepted:
            problems.append(f"L7 request {request} was booked and never accepted")
        if entries[0].num_output_tokens != books.forwarded[request]:
            problems.append(
                f"L7 request {request} was booked with {entries[0].num_output_tokens} tokens, its caller was given"
                f" {books.forwarded[request]}"
            )
    problems += [f"L7 request {r} ended and was not booked" for r in sorted(set(books.ended) - set(books.booked))]
    if books.is_closed:
        problems += [f"L7 request {r} never ended" for r in sorted(books.accepted - set(books.ended))]
    return problems


def _check_record(record: RequestRecord, entry: UsageRecorded | None, *, is_owed: bool) -> list[str]:
    if entry is None:
        return [] if is_owed else [f"L7 request {record.request_id} was answered and not booked"]
    found = (entry.num_prompt_tokens, entry.num_output_tokens)
    must = (len(record.spec.prompt), record.num_tokens)
    return [] if found == must else [f"L7 request {record.request_id} was booked as {found}, not as {must}"]


def _read(path: Path) -> _Books:
    books = _Books()
    with path.open("rb") as file:
        for line in file:
            record = _decode(line)
            if record is not None:
                _take(books, record)
    return books


def _decode(line: bytes) -> Record | None:
    try:
        return decode_line(line)
    except msgspec.MsgspecError:
        return None  # the last line of a process that was killed may be torn; the trace checker judges damage


def _take(books: _Books, record: Record) -> None:
    match record.event:
        case RequestAccepted(request=request):
            books.accepted.add(request)
        case RequestEnded(request=request):
            books.ended[request] += 1
        case UsageRecorded(request=request) as usage:
            books.booked.setdefault(request, []).append(usage)
        case TokensForwarded(request=request, count=count):
            books.forwarded[request] += count
        case LogClosed():
            books.is_closed = True
        case _:
            return
