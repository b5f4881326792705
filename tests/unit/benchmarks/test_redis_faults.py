"""The sums of the Redis faults: what counts as success, and which figures are the worst ones."""

from dataclasses import replace

from benchmarks.redis_cells import WITH, WITHOUT, Cell, Played
from benchmarks.redis_fault_kinds import FAULTS
from benchmarks.redis_faults import result_of
from benchmarks.redis_load import Window, is_good, percentile_ms, window
from tandem.chaos.cluster import Ending, RequestRecord, RequestSpec, Verdict


def record(began_s: float, ttft_s: float, *, is_right: bool = True) -> RequestRecord:
    made = RequestRecord(spec=RequestSpec(prompt=(4,)), began_s=began_s, first_token_s=began_s + ttft_s)
    made.ending, made.verdict = Ending.OK, Verdict.EQUAL if is_right else Verdict.WRONG
    return made


WELL = Window(requests=10, failures=0, ttft_p50_ms=10.0, ttft_p99_ms=20.0)
CELL = Cell(
    name="down",
    row=30,
    server="redis",
    evidence="ConnectionError",
    with_redis=WELL,
    without=WELL,
    added_ttft_p99_ms=0.0,
    added_ttft_p99_open_ms=0.0,
    tier_asks=5,
    tier_p99_ms=20.5,
    tier_p99_open_ms=0.1,
    tier_found=0,
    forged=0,
    forged_refused=0,
    forged_accepted=0,
    tier_back_s=2.0,
    registry_back_s=1.0,
)


def run(*cells: Cell, failures: int = 0, mismatches: int = 0) -> Played:
    pooled = {WITH: replace(WELL, ttft_p99_ms=24.0), WITHOUT: WELL}
    return Played(
        server="redis 7",
        cells=list(cells),
        requests=100,
        failures=failures,
        mismatches=mismatches,
        pooled=pooled,
        tier_p99_ms=max((cell.tier_p99_ms for cell in cells), default=0.0) - 1.0,
    )


def test_every_row_has_a_fault() -> None:
    assert {fault.row for fault in FAULTS} == set(range(30, 36))
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) == 8


def test_the_worst_figures_count() -> None:
    worse = replace(CELL, tier_p99_ms=31.0, tier_back_s=4.0, forged=9, forged_accepted=1)
    result = result_of([run(CELL), run(worse, CELL)])
    assert (result["added_ttft_p99_ms"], result["added_ttft_p99_worst_fault_ms"]) == (30.0, 31.0)
    assert result["reconnect_s"] == 4.0
    assert (result["forged"], result["forged_accepted"]) == (9, 1)
    assert result["cluster_added_ttft_p99_ms"] == 4.0
    assert (result["success"], result["requests"]) == (1.0, 200)
    assert result["faults_verified"]


def test_failures_and_wrong_kv_show() -> None:
    result = result_of([run(CELL, failures=1, mismatches=2)])
    assert result["success"] == 0.99
    assert result["forged_accepted"] == 2
    assert not result_of([run(replace(CELL, evidence=""))])["faults_verified"]
    assert not result_of([run()])["faults_verified"]


def test_a_window_takes_requests_by_their_beginning() -> None:
    records = [record(number, 0.010 + 0.001 * number, is_right=number != 3) for number in range(10)]
    found = window(records, 2.0, 6.0)
    assert (found.requests, found.failures) == (4, 1)
    assert found.ttft_p50_ms == 13.5
    assert not is_good(records[3])
    assert is_good(records[4])
    assert percentile_ms([], 99) == 0.0
    assert percentile_ms([0.5], 99) == 500.0
