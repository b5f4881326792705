"""The prefix cache's benchmarks, small: what it saves a tiny model in real processes, and what a tenant can't tell."""

from benchmarks.isolation_timing import measure as measure_isolation
from benchmarks.prefix_cache import measure, result_of
from benchmarks.prefix_cache_uses import Sizes
from tandem.core.prepared_model import PreparedModel

SIZES = Sizes(
    document_tokens=600,
    num_questions=2,
    instruction_tokens=400,
    num_shots=2,
    system_tokens=250,
    num_turns=3,
    max_tokens=8,
)


async def test_what_the_cache_saves_is_seen_and_changes_no_token(tiny: PreparedModel) -> None:
    # One worker per cluster: whole clusters take long to start, and have tests of their own.
    figures = await measure(
        tiny, SIZES, pools={"prefill": {"replicas": 0}}, router={"placement": {"mode": "aggregated"}}
    )
    assert set(figures) == {"document", "manyshot", "chat"}
    for name, figure in figures.items():
        assert figure["mismatches"] == 0, (name, figure)
        assert figure["tokens_not_recomputed_off"] == 0, "the arm without a cache has one"
        assert figure["tokens_not_recomputed"] > 0.5 * figure["prompt_tokens"], (name, figure)
        assert figure["cost_saved"] > 0.4, (name, figure)
    # Of the chat's turns the first is paid in full, and still the sum is below.
    assert result_of(figures)["mismatches"] == 0


async def test_a_tenant_learns_nothing_of_another() -> None:
    found = await measure_isolation(20, 2, num_prefill=1)
    assert found["foreign_cached_tokens"] == found["kv_mismatches"] == 0
    assert found["ttft_ks_p"] > 0.0005, found  # a sample this small is a smoke test; the benchmark's is the proof
    assert found["ttft_own_ks_p"] < 0.001, "a cached prompt must show, or the comparison means nothing"
    assert found["cluster_flood_points_lost"] <= 20
