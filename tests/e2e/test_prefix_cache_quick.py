"""The prefix cache's benchmarks, small: what it saves a tiny model in real processes, and what a tenant can't tell."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from benchmarks.isolation_timing import measure as measure_isolation
from benchmarks.prefix_cache import measure, result_of
from benchmarks.prefix_cache_play import ON
from benchmarks.prefix_cache_uses import Sizes
from tandem.chaos.cluster import ChaosCluster, ChaosOptions
from tandem.chaos.tagged.model import prepare_tagged
from tandem.chaos.tagged.settings import TaggedCost
from tandem.text.tokenizer import Tokenizer

SIZES = Sizes(
    document_tokens=600,
    num_questions=2,
    instruction_tokens=400,
    num_shots=2,
    system_tokens=400,
    num_turns=4,
    max_tokens=8,
)


@contextlib.asynccontextmanager
async def tagged_cluster(arm: str) -> AsyncIterator[str]:
    """One worker that pretends to compute, for a millisecond per token: whole clusters have tests of their own."""
    options = ChaosOptions(
        num_prefill=0,
        cost=TaggedCost(prefill_token_s=0.001),
        router={"placement": {"mode": "aggregated"}},
        cluster={"prefix_cache": {"enabled": arm == ON}},
        warm_up=False,
        event_log=False,
    )
    async with ChaosCluster(options) as cluster:
        yield cluster.public_address
        assert cluster.mismatches() == []


async def test_what_the_cache_saves_is_seen_and_changes_no_token(tmp_path: Path) -> None:
    prepare_tagged(tmp_path)
    figures = await measure(tagged_cluster, Tokenizer.load(tmp_path), SIZES)
    assert set(figures) == {"document", "manyshot", "chat"}
    for name, figure in figures.items():
        assert figure["mismatches"] == 0, (name, figure)
        assert figure["tokens_not_recomputed_off"] == 0, "the arm without a cache has one"
        assert figure["tokens_not_recomputed"] > 0.5 * figure["prompt_tokens"], (name, figure)
        assert min(figure["cost_saved"], figure["ttft_saved"]) > 0.3, (name, figure)
    assert result_of(figures)["mismatches"] == 0


async def test_a_tenant_learns_nothing_of_another() -> None:
    found = await measure_isolation(20, 2, num_prefill=0)
    assert found["foreign_cached_tokens"] == found["kv_mismatches"] == 0
    assert found["ttft_ks_p"] > 0.0005, found  # a sample this small is a smoke test; the benchmark's is the proof
    assert found["ttft_own_ks_p"] < 0.001, "a cached prompt must show, or the comparison means nothing"
    assert found["cluster_flood_points_lost"] <= 20
