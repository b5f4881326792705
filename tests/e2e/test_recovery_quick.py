"""The quick form of the recovery benchmark: a decode worker is killed under many streams, and each goes on exactly."""

from benchmarks.recovery import measure
from benchmarks.recovery_rounds import Round


async def test_streams_outlive_their_decode_worker() -> None:
    one = Round(name="killed after 8 tokens", after_tokens=8)
    measured = await measure([one], repeat=1, seed=11, num_streams=30, num_prefill=1)
    result = measured["result"]
    assert (result["completed"], result["mismatches"], result["leaks"], result["tag_mismatches"]) == (30, 0, 0, 0), (
        measured
    )
    assert measured["details"]["trace_violations"] == []
    assert result["faults_verified"]
    assert result["moved_streams"] >= 3, "the worker that was killed ran nothing"
    assert result["detect_max_s"] <= 6.0
