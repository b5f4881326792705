"""How long a cancelled request still held blocks, from event logs of several processes."""

from pathlib import Path

from tandem.chaos.cluster.records import RequestRecord
from tandem.chaos.cluster.specs import RequestSpec
from tandem.chaos.leaks.freeing import read_block_history
from tandem.core.blocks import BlockRef
from tandem.core.event_log.events import BlocksAllocated, BlocksFreed, Event, RequestAccepted
from tandem.core.event_log.record import LineEncoder, ProcessLife

A, B, A_AGAIN = BlockRef(0, 1), BlockRef(1, 1), BlockRef(0, 2)


def _log(folder: Path, name: str, *events: tuple[float, Event]) -> Path:
    encoder, buffer = LineEncoder(ProcessLife(name, 1)), bytearray()
    for at_s, event in events:
        encoder.append(buffer, at_s, event)
    path = folder / f"{name}.jsonl"
    path.write_bytes(buffer)
    return path


def _took(request: str, *blocks: BlockRef) -> BlocksAllocated:
    return BlocksAllocated(request=request, attempt=0, state="filling", blocks=blocks)


def _record(request_id: str = "r", cancelled_s: float | None = 10.0) -> RequestRecord:
    record = RequestRecord(spec=RequestSpec(prompt=(5,)), began_s=0.0, request_id=request_id, traceparent="mine")
    record.cancelled_s = cancelled_s
    return record


def test_the_last_block_on_any_worker_counts(tmp_path: Path) -> None:
    history = read_block_history(
        [
            _log(tmp_path, "p", (9.0, _took("r", A, B)), (10.2, BlocksFreed(blocks=(A, B)))),
            _log(tmp_path, "d", (9.5, _took("r", A)), (10.7, BlocksFreed(blocks=(A,))), (11.0, _took("q", A_AGAIN))),
        ]
    )
    after_s = history.freed_after_s(_record())
    assert after_s is not None
    assert abs(after_s - 0.7) < 1e-9
    assert history.freed_after_s(_record("q")) == float("inf")  # never freed
    assert history.freed_after_s(_record("unknown")) is None
    assert history.freed_after_s(_record(cancelled_s=None)) is None
    assert history.freed_after_s(_record(cancelled_s=12.0)) is None  # nothing was held any more


def test_a_block_used_again_belongs_to_its_present_owner(tmp_path: Path) -> None:
    path = _log(
        tmp_path,
        "p",
        (9.0, _took("r", A)),
        (10.5, BlocksFreed(blocks=(A,))),
        (10.6, _took("q", A_AGAIN)),
        (15.0, BlocksFreed(blocks=(A_AGAIN,))),
    )
    after_s = read_block_history([path]).freed_after_s(_record())
    assert after_s is not None
    assert abs(after_s - 0.5) < 1e-9


def test_a_caller_who_left_before_it_was_told_finds_its_request(tmp_path: Path) -> None:
    accepted = RequestAccepted(request="r", num_sequences=1, traceparent="mine")
    record = _record("")
    read_block_history([_log(tmp_path, "router", (1.0, accepted))]).name_requests([record])
    assert record.request_id == "r"
