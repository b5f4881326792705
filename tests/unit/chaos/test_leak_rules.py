"""Each leak check finds the leak that is planted for it, and nothing in a clean cluster."""

from dataclasses import replace

import pytest

from tandem.chaos.cluster.baseline import Baseline, ProcessSize
from tandem.chaos.leaks.rules import Observation, problems_of
from tandem.core.cluster import ClusterStatus, WorkerState, WorkerStatus
from tandem.core.description import WorkerDescription, WorkerHoldings
from tandem.core.ids import Epoch, WorkerId
from tandem.core.latency import LatencyCoefficients
from tandem.core.types import Role, WorkerInfo, WorkerLoad

SIZE = ProcessSize(num_fds=20, num_threads=10, num_tasks=8)
IDLE = WorkerLoad(free_blocks=64, total_blocks=64)
INFO = WorkerInfo(
    worker_id=WorkerId("decode-0"),
    epoch=Epoch(1),
    role=Role.DECODE,
    address="127.0.0.1:1",
    model="tagged",
    model_digest="d",
    layout_fingerprint="f",
    block_size=16,
    total_blocks=64,
    max_context_tokens=4096,
    max_sequences=64,
    pid=1,
    host="h",
)
WORKER = WorkerDescription(info=INFO, latency=LatencyCoefficients(), load=IDLE)
STATUS = ClusterStatus(
    model="tagged",
    ready=True,
    router_id="router-0",
    uptime_s=1.0,
    workers=(WorkerStatus(info=INFO, state=WorkerState.READY, load=IDLE),),
)
CLEAN = Observation(
    status=STATUS,
    workers={"decode-0": WORKER},
    processes={"router": SIZE, "decode-0": SIZE},
    redis_ttl_ms={"tandem:workers": -1, "tandem:worker:decode-0": 3000, "tandem:lock": 10},
)
BASELINE = Baseline(processes={"router": SIZE, "decode-0": SIZE}, shared_memory=frozenset({"tandem-old"}))


def _with_load(**load: int) -> Observation:
    return replace(CLEAN, workers={"decode-0": replace(WORKER, load=replace(IDLE, **load))})


def _with_holdings(**holdings: int) -> Observation:
    return replace(CLEAN, workers={"decode-0": replace(WORKER, holdings=WorkerHoldings(**holdings))})


def _with_size(name: str, **size: int) -> Observation:
    return replace(CLEAN, processes={**CLEAN.processes, name: replace(SIZE, **size)})


def test_a_clean_cluster_has_no_problem() -> None:
    assert problems_of(CLEAN, BASELINE) == []


PLANTED = [
    ("L1", _with_load(free_blocks=63)),
    ("L1", _with_load(receiving_blocks=1)),
    ("L1", replace(CLEAN, workers={"decode-0": None})),
    ("L2", replace(CLEAN, status=None)),
    ("L2", replace(CLEAN, status=replace(STATUS, num_running=1))),
    ("L2", replace(CLEAN, status=replace(STATUS, num_queued=1))),
    ("L2", _with_holdings(num_attempts=1)),
    ("L2", _with_holdings(num_handovers=1)),
    ("L2", _with_load(num_running=1)),
    ("L2", _with_load(num_waiting=1)),
    ("L3", replace(CLEAN, status=replace(STATUS, num_in_flight=1))),
    ("L3", replace(CLEAN, status=replace(STATUS, num_isolated=1))),
    (
        "L3",
        replace(
            CLEAN,
            status=replace(STATUS, workers=(replace(STATUS.workers[0], load=replace(IDLE, free_blocks=60)),)),
        ),
    ),
    ("L4", _with_size("router", num_fds=23)),
    ("L4", _with_size("decode-0", num_threads=13)),
    ("L4", _with_size("decode-0", num_tasks=11)),
    ("L4", replace(CLEAN, processes={"router": SIZE})),
    ("L5", replace(CLEAN, shared_memory=frozenset({"tandem-new"}))),
    ("L6", replace(CLEAN, redis_ttl_ms={"tandem:request:1": -1})),
]


@pytest.mark.parametrize(("check", "planted"), PLANTED)
def test_a_planted_leak_is_found_by_its_check_alone(check: str, planted: Observation) -> None:
    problems = problems_of(planted, BASELINE)
    assert len(problems) == 1
    assert problems[0].startswith(check)


def test_two_more_of_anything_may_be_on_their_way() -> None:
    assert problems_of(_with_size("router", num_fds=22, num_threads=12, num_tasks=10), BASELINE) == []
    assert problems_of(_with_size("router", num_fds=1, num_threads=1, num_tasks=1), BASELINE) == []
