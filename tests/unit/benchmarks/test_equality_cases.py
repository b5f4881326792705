"""The equality benchmark must be able to see a difference."""

from benchmarks.equality import Group, summarise
from benchmarks.equality_cases import Counts, make_task
from benchmarks.equality_real import LENGTHS as REAL_LENGTHS
from benchmarks.equality_tiny import LENGTHS, tasks_of
from tandem.core.limits import ModelLimits, RequestLimits, check_task


def test_a_differing_answer_is_counted_and_named() -> None:
    counts = Counts().add("same", [(1, 2)], [(1, 2)], was_handed_over=True)
    counts = counts.add("other", [(1, 2)], [(1, 3)], was_handed_over=True)
    counts = counts.add("short", [(1, 2), (3,)], [(1, 2)], was_handed_over=False)
    assert (counts.cases, counts.mismatches, counts.handed_over) == (3, 2, 2)
    assert counts.first_mismatch.startswith("other: expected")


def test_lengths_lie_around_block_and_chunk_edges() -> None:
    for edge in (16, 32):
        assert {edge - 1, edge, edge + 1} <= set(LENGTHS)
    assert {511, 512, 513, 15, 16, 17} <= set(REAL_LENGTHS)


def test_tasks_cover_n_from_one_to_four_and_both_ways_of_choosing() -> None:
    tasks = tasks_of(LENGTHS, 320)
    assert len(tasks) == 2 * len(LENGTHS)
    for sampled in (False, True):
        chosen = [t for t in tasks if (t.sampling.temperature > 0) is sampled]
        assert {t.num_sequences for t in chosen} == {1, 2, 3, 4}
    settings = {(t.sampling.top_k, t.sampling.top_p, t.sampling.min_p, t.sampling.repetition_penalty) for t in tasks}
    assert len(settings) > 4


def test_every_task_is_valid() -> None:
    for task in tasks_of(LENGTHS, 320):
        check_task(task, ModelLimits(vocab_size=320, max_context_tokens=1024), RequestLimits())
    assert make_task(5, vocab_size=9, num_sequences=1, sampled=True, max_tokens=2, seed=1) == make_task(
        5, vocab_size=9, num_sequences=1, sampled=True, max_tokens=2, seed=1
    )


def test_summary_counts_models_once() -> None:
    groups = [
        Group(model=model, transport=transport, cases=4, mismatches=wrong, handed_over=4)
        for model, wrong in (("a", 0), ("b", 1))
        for transport in ("shm", "tcp")
    ]
    assert summarise(groups) == {"architectures": 2, "cases": 16, "mismatches": 2, "handed_over": 16}
