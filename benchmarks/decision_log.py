"""What the decision log costs a request in the router, and whether its files keep up. One JSON object at the end.

A dispatcher over fake workers takes requests, places them, forwards two tokens and ends them, with the log on and off;
blocks of both take turns. All times are this thread's CPU time, so that a busy machine tells the same. The log's part
of a request is the difference of the medians; ``direct_us`` is the same from timing the observer's calls alone.
"""

import gc
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import finish, parse, say
from tandem.core.clock import MonotonicClock
from tandem.core.ids import Epoch, RequestId, Tenant, WorkerId
from tandem.core.messages import HandoverDone, PrefillDone, StepReport
from tandem.core.types import (
    FinishReason,
    GenerationTask,
    Role,
    SamplingParams,
    StopParams,
    TokenDelta,
    WorkerInfo,
    WorkerLoad,
)
from tandem.router.actions import Ended, Started, WorkerKey
from tandem.router.decisions.config import DecisionsSection
from tandem.router.decisions.file import DecisionFile
from tandem.router.decisions.log import DecisionLog
from tandem.router.decisions.observer import DecisionObserver
from tandem.router.dispatcher import Dispatcher
from tandem.router.fleet import Fleet
from tandem.router.health import HealthTimers
from tandem.router.live import DispatcherPolicy
from tandem.router.observer import Observer, SilentObserver
from tandem.router.queue import CentralQueue, QueueBounds

_PROMPT = tuple(range(512))


class _Nobody:
    """A caller that keeps nothing."""

    def put_started(self, started: Started) -> None:
        """Nothing."""

    def put_delta(self, delta: TokenDelta) -> None:
        """Nothing."""

    def put_ended(self, ended: Ended) -> None:
        """Nothing."""

    def put_keep_alive(self) -> None:
        """Nothing."""


class _Router:
    """A dispatcher with ``num_workers`` of each role."""

    def __init__(self, observer: Observer, num_workers: int) -> None:
        self.dispatcher = Dispatcher(
            fleet=Fleet(HealthTimers(suspect_after_s=1e6, dead_after_s=2e6)),
            queue=CentralQueue(QueueBounds()),
            policy=DispatcherPolicy(),
            clock=MonotonicClock(),
            send=lambda worker, command: None,
            observer=observer,
        )
        infos = [_info(role, number) for role in Role for number in range(num_workers)]
        self.dispatcher.fleet.apply(infos)
        load = WorkerLoad(free_blocks=10_000, total_blocks=10_000)
        for info in infos:
            key = WorkerKey(worker_id=info.worker_id, epoch=info.epoch)
            self.dispatcher.on_attached(key)
            self.dispatcher.on_report(key, StepReport(worker_epoch=key.epoch, sequence=1, load=load))
        self._sequence = 1

    def serve(self, name: str) -> None:
        """One request from its arrival to its end."""
        dispatcher, request = self.dispatcher, RequestId(name)
        now_s = time.monotonic()
        dispatcher.submit(_task(request), _Nobody(), deadline_s=now_s + 60.0, arrived_s=now_s)
        placement = dispatcher._lives[request].placement
        if placement is None:
            raise RuntimeError("an idle fleet took nothing")
        source = placement.prefill or placement.decode
        done = PrefillDone(request_id=request, attempt=0, wait_ms=0.0, compute_ms=5.0, num_cached_tokens=0)
        self._report(source, events=(done,), tokens=(_token(request, 0),))
        handed = HandoverDone(
            request_id=request, attempt=0, num_bytes=1, transport="tcp", handover_ms=1.0, exposed_ms=0.0
        )
        last = _token(request, 1, finish=FinishReason.LENGTH)
        self._report(placement.decode, events=(handed,) if placement.prefill else (), tokens=(last,))

    def _report(self, worker: WorkerKey, **what: Any) -> None:
        self._sequence += 1
        self.dispatcher.on_report(worker, StepReport(worker_epoch=worker.epoch, sequence=self._sequence, **what))


def _info(role: Role, number: int) -> WorkerInfo:
    return WorkerInfo(
        worker_id=WorkerId(f"{role.value}-{number}"),
        epoch=Epoch(1),
        role=role,
        address="127.0.0.1:1",
        model="m",
        model_digest="d",
        layout_fingerprint="l",
        block_size=16,
        total_blocks=10_000,
        max_context_tokens=8192,
        max_sequences=64,
        pid=1,
        host="h",
    )


def _task(request: RequestId) -> GenerationTask:
    return GenerationTask(
        request_id=request,
        attempt=0,
        tenant=Tenant("acme"),
        prompt_token_ids=_PROMPT,
        num_sequences=1,
        sampling=SamplingParams(),
        stop=StopParams(max_tokens=2),
    )


def _token(request: RequestId, position: int, *, finish: FinishReason | None = None) -> TokenDelta:
    return TokenDelta(
        request_id=request, attempt=0, child=0, position=position, token_ids=(7,), text="x", finish_reason=finish
    )


class _Timed:
    """An observer whose own time is counted."""

    def __init__(self, inner: DecisionObserver) -> None:
        self._inner = inner
        self.took_ns = 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)

        def timed(*args: Any, **kwargs: Any) -> None:
            begun_ns = time.thread_time_ns()
            method(*args, **kwargs)
            self.took_ns += time.thread_time_ns() - begun_ns

        return timed


def _request_us(router: _Router, names: Sequence[str]) -> list[float]:
    took = []
    for name in names:
        begun_ns = time.thread_time_ns()
        router.serve(name)
        took.append((time.thread_time_ns() - begun_ns) / 1e3)
    return took


def measure(folder: Path, *, num_workers: int, num_requests: int) -> dict[str, Any]:
    """Microseconds of one request with and without the log, and what the log's own calls take."""
    config = DecisionsSection()
    file = DecisionFile(folder, f"d{num_workers}", max_bytes=1 << 28, max_files=2)
    log = DecisionLog("router-0", clock=MonotonicClock(), config=config, file=file)
    memory = DecisionLog("router-0", clock=MonotonicClock(), config=config)
    timed = _Timed(DecisionObserver(SilentObserver(), memory))
    routers = {
        "off": _Router(SilentObserver(), num_workers),
        "memory": _Router(DecisionObserver(SilentObserver(), memory), num_workers),
        "file": _Router(DecisionObserver(SilentObserver(), log), num_workers),
        "direct": _Router(timed, num_workers),
    }
    took: dict[str, list[float]] = {name: [] for name in routers}
    direct: list[float] = []
    block = 50
    gc.collect()
    for at in range(0, num_requests, block):
        for name, router in routers.items():
            before_ns = timed.took_ns
            took[name] += _request_us(router, [f"{name}-{at + index}" for index in range(block)])
            if name == "direct":
                direct.append((timed.took_ns - before_ns) / 1e3 / block)
    file.close()
    medians = {name: statistics.median(values) for name, values in took.items()}
    num_kept = log.last_sequence
    num_bytes = sum(path.stat().st_size for path in folder.glob(f"d{num_workers}*.jsonl"))
    return {
        "workers": 2 * num_workers,
        "records_per_request": num_kept / num_requests,
        "request_us_off": round(medians["off"], 1),
        "log_us_per_request": round(medians["memory"] - medians["off"], 1),
        "log_us_per_request_with_file": round(medians["file"] - medians["off"], 1),
        "direct_us_per_request": round(statistics.median(direct), 1),
        "direct_us_per_record": round(statistics.median(direct) / (num_kept / num_requests), 1),
        "bytes_per_record_in_file": round(num_bytes / max(num_kept - file.num_dropped, 1)),
        "dropped": file.num_dropped,
    }


METHOD = (
    "A dispatcher in one process over fake workers; each request is admitted, placed, forwards two tokens and ends. "
    "Blocks of 50 requests with the log off, in memory, with a file, and with its calls timed take turns; medians "
    "of the thread's CPU time."
)


def main() -> None:
    """Run."""
    options = parse(__doc__, "quick")
    num_requests = 1000 if options.quick else 3000
    runs = []
    with tempfile.TemporaryDirectory(prefix="tandem-decisions-") as folder:
        for num_workers in (2, 8, 32):
            runs.append(measure(Path(folder), num_workers=num_workers, num_requests=num_requests))
            say(str(runs[-1]))
    finish(options, {"runs": runs}, method=METHOD, details={"num_requests": num_requests})


if __name__ == "__main__":
    main()
