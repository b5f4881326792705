"""Benchmark of one router process: tokens/s streamed, latency added, memory per stream.

Three processes on one machine, joined by real gRPC over loopback:

- fake workers (``tests.fakes.worker_process``): prefill and decode workers without a model. Each decode worker sends
  one message per step with a token for each of its streams (32), at a set pace, staggered; a token's text is the time
  of its emission in microseconds of CLOCK_MONOTONIC, which all processes of a machine share;
- the router (``benchmarks.router_server``), with all its product code: access control, tokens from ids, queue,
  placement, ledger, ordering, client buffers, metrics;
- the load (``benchmarks.router_load``): N long streams over several connections, messages kept as bytes and read after
  the window.

*Max sustained* (``tokens_per_s_*``): the pace rises by 12 % at a time until the delivered rate does not follow (below
97 % of the set rate) or a stream breaks; the best rate that was delivered whole with a 99th percentile of added latency
of at most 50 ms counts. Beyond it the router coalesces, which gives more tokens/s in fewer messages and later; the best
of that is ``peak_tokens_per_s_*``.

*Added latency*, at half the maximum: ``added_*`` is over all tokens of all requests, arrival at the caller minus
emission at the worker. ``added_first_token_*`` is over probe requests (20/s) on top of the streams: the time from
sending to the first token minus the worker's own prefill time, so that it holds four hops between processes: the way
there, admission, queue, placement, dispatch to the worker, and the way back.

*Memory*: resident set of the router with all streams running, minus that with none, per stream, at the larger N.

Run it on a quiet machine: ``python -m benchmarks.router --json``. The last line of standard output is one JSON object.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from tests.fakes.router_cluster import save_model

RAISE = 1.12
MAX_P99_MS = 50.0
TRIES_PER_RUNG = 2  # something else on the machine may spoil one
GIVE_UP_P99_MS = 1000.0
FOLLOWS = 0.97
STREAMS_PER_WORKER = 32
TARGETS = {"tokens_per_s_512": 25_000.0, "added_p50_ms": 1.5, "added_p99_ms": 8.0}
_WINDOW_S, _QUICK_WINDOW_S = 4.0, 0.5


class Child:
    """A process that answers one JSON line per line."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def answer(self) -> Any:
        """Read one line."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args!r} ended without an answer")
        return json.loads(line)

    def tell(self, command: dict[str, Any]) -> None:
        """Write one line."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def ask(self, question: dict[str, Any]) -> Any:
        """Write one line and read one."""
        self.tell(question)
        return self.answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(timeout=10.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@dataclass
class Bench:
    """One number of streams: workers, router and load, running."""

    num_streams: int
    workers: Child
    router: Child
    load: Child
    idle_rss_bytes: int

    def pace(self, tokens_per_s: float) -> None:
        """Set the offered rate."""
        self.workers.ask({"step_s": self.num_streams / tokens_per_s})

    def window(self, *, window_s: float, probes_per_s: float = 0.0) -> dict[str, Any]:
        """Measure after a moment at the present pace."""
        time.sleep(0.7)
        router = psutil.Process(self.router.process.pid)
        before = router.cpu_times()
        self.load.tell({"window_s": window_s, "probes_per_s": probes_per_s})
        time.sleep(window_s)
        after = router.cpu_times()
        found: dict[str, Any] = self.load.answer()
        used_s = after.user + after.system - before.user - before.system
        found["router_cpu_us_per_token"] = used_s * 1e6 / max(found["tokens_per_s"] * found["seconds"], 1.0)
        return found

    def rss_per_stream_kb(self) -> float:
        """Memory of the router per stream."""
        now_bytes = psutil.Process(self.router.process.pid).memory_info().rss
        return float(now_bytes - self.idle_rss_bytes) / self.num_streams / 1024


def plan(num_streams: int) -> dict[str, Any]:
    """The fake workers for this many streams."""
    num_decode = max(1, num_streams // STREAMS_PER_WORKER)
    workers: list[dict[str, Any]] = [{"name": f"prefill-{index}", "role": "prefill"} for index in range(2)]
    for index in range(num_decode):
        workers.append({"name": f"decode-{index:02d}", "role": "decode", "step_s": 0.05, "beat_s": 1.0})
    return {"emission_times": True, "workers": workers}


def climb(bench: Bench, *, first: float, window_s: float) -> list[dict[str, Any]]:
    """Raise the pace until the router stops following; return every rung."""
    offered = first
    rungs: list[dict[str, Any]] = []
    num_failed = 0
    while num_failed < TRIES_PER_RUNG:
        bench.pace(offered)
        rung = {"offered": offered, **bench.window(window_s=window_s)}
        rungs.append(rung)
        show(bench.num_streams, rung)
        if rung["tokens_per_s"] < FOLLOWS * offered or rung["num_broken"] or rung["added_ms"]["p99"] > GIVE_UP_P99_MS:
            num_failed += 1
            time.sleep(2.0)  # lets a backlog go
        else:
            num_failed = 0
            offered *= RAISE
    return rungs


def sustained(rungs: list[dict[str, Any]]) -> float:
    """The best rate delivered whole and in time."""
    whole = [r for r in rungs if r["tokens_per_s"] >= FOLLOWS * r["offered"] and r["added_ms"]["p99"] <= MAX_P99_MS]
    return float(max((rung["tokens_per_s"] for rung in whole), default=0.0))


def show(num_streams: int, rung: dict[str, Any]) -> None:
    """One progress line."""
    added, first = rung["added_ms"], rung["first_token_ms"]
    print(
        f"{num_streams:4d} streams, {rung['offered']:8.0f}/s offered: {rung['tokens_per_s']:8.0f} tokens/s in "
        f"{rung['messages_per_s']:8.0f} messages/s, "
        f"added p50 {added.get('p50', 0.0):6.2f} p99 {added.get('p99', 0.0):7.2f} ms, "
        + (f"first token p50 {first['p50']:.2f} p99 {first['p99']:.2f} ms, " if first else "")
        + f"router {rung['router_cpu_us_per_token']:.1f} µs/token, load {rung['load_cpu_share']:.0%} of a core",
        flush=True,
    )


def measure(num_streams: int, folder: Path, *, first: float, window_s: float) -> dict[str, Any]:
    """All figures for one number of streams."""
    with Child("tests.fakes.worker_process", json.dumps(plan(num_streams))) as workers:
        infos = workers.answer()
        with Child("benchmarks.router_server", str(folder), json.dumps(infos)) as router:
            address = router.answer()["address"]
            idle_rss_bytes = psutil.Process(router.process.pid).memory_info().rss
            with Child("benchmarks.router_load", address, str(num_streams)) as load:
                load.answer()
                bench = Bench(num_streams, workers, router, load, idle_rss_bytes)
                rss_kb = bench.rss_per_stream_kb()
                rungs = climb(bench, first=first, window_s=window_s)
                best = sustained(rungs)
                half_rate = (best or first) / 2
                bench.pace(half_rate)
                time.sleep(2.0)  # lets a backlog of the last rung go
                half = {"offered": half_rate, **bench.window(window_s=2 * window_s, probes_per_s=20.0)}
                show(num_streams, half)
                return {
                    "max_tokens_per_s": best,
                    "peak_tokens_per_s": max(rung["tokens_per_s"] for rung in rungs),
                    "half_load": half,
                    "rungs": rungs,
                    "rss_per_stream_kb": rss_kb,
                }


def summary(found: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """The figures of the issue."""
    half = found[512]["half_load"]
    added, first = half["added_ms"], half["first_token_ms"]
    return {
        "tokens_per_s_64": round(found[64]["max_tokens_per_s"]),
        "tokens_per_s_512": round(found[512]["max_tokens_per_s"]),
        "peak_tokens_per_s_64": round(found[64]["peak_tokens_per_s"]),
        "peak_tokens_per_s_512": round(found[512]["peak_tokens_per_s"]),
        "half_load_tokens_per_s": round(half["tokens_per_s"]),
        "added_p50_ms": round(added["p50"], 3),
        "added_p99_ms": round(added["p99"], 3),
        "added_first_token_p50_ms": round(first["p50"], 3),
        "added_first_token_p99_ms": round(first["p99"], 3),
        "added_p50_ms_64": round(found[64]["half_load"]["added_ms"]["p50"], 3),
        "added_p99_ms_64": round(found[64]["half_load"]["added_ms"]["p99"], 3),
        "rss_per_stream_kb": round(found[512]["rss_per_stream_kb"], 1),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Benchmark of one router process.")
    parser.add_argument("--json", action="store_true", help="print the summary as the last line (always done)")
    parser.add_argument("--output", type=Path, help="write everything that was measured, with the method, as JSON")
    parser.add_argument("--quick", action="store_true", help="short measurements: whether it works, no figures")
    parser.add_argument("--window-s", type=float, help="length of one measurement")
    parser.add_argument("--streams", type=int, nargs="*", default=[64, 512], help="numbers of concurrent streams")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder), max_context_tokens=65536)
        first = {64: 8000.0}
        window_s = options.window_s or (_QUICK_WINDOW_S if options.quick else _WINDOW_S)
        found = {n: measure(n, Path(folder), first=first.get(n, 12_000.0), window_s=window_s) for n in options.streams}
    result = summary(found) if {64, 512} <= found.keys() else {str(n): f["max_tokens_per_s"] for n, f in found.items()}
    if options.output is not None:
        record = {"method": __doc__, "targets": TARGETS, "summary": result, "measured": found}
        options.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
