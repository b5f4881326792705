"""What two real workers measure of real requests."""

from benchmarks.equality_cache_tiers import tiers_behind
from tandem.core.ids import LOCAL_TENANT, RequestId
from tandem.core.messages import HandoverDone
from tandem.core.prepared_model import PreparedModel
from tandem.core.types import GenerationTask, KvSource, SamplingParams, StopParams
from tests.fakes.engine_driver import make_cache
from tests.fakes.measured import Measured, labels
from tests.fakes.worker_pair import WorkerPair

PREFILL, DECODE = labels(role="prefill"), labels(role="decode")


def _task(num_prompt: int, max_tokens: int) -> GenerationTask:
    return GenerationTask(
        request_id=RequestId(""),
        attempt=0,
        tenant=LOCAL_TENANT,
        prompt_token_ids=tuple(range(1, num_prompt + 1)),
        num_sequences=1,
        sampling=SamplingParams(),
        stop=StopParams(max_tokens=max_tokens, ignore_eos=True),
        deadline_left_s=60.0,
    )


async def test_every_token_and_every_byte_is_counted_once(tiny_llama: PreparedModel) -> None:
    measured = Measured()
    async with WorkerPair(tiny_llama, measured_by=measured.meter) as pair:
        before = measured.sums("tandem.engine.prefill_tokens")
        warm_up = measured.sums("tandem.engine.decode_tokens")
        assert (before, warm_up) == ({}, {})  # the engine's warm-up is nobody's request
        split = await pair.run(_task(70, 9), KvSource.HANDOVER)
        local = await pair.run(_task(33, 5), KvSource.LOCAL)
        done = [event for _, event in split.events if isinstance(event, HandoverDone)]
        assert split.failures() + local.failures() == []
    assert measured.sums("tandem.engine.prefill_tokens") == {PREFILL: 70, DECODE: 33}
    assert measured.sums("tandem.engine.decode_tokens") == {DECODE: (9 - 1) + (5 - 1)}
    assert measured.sums("tandem.kv.handover.bytes") == {labels(transport=done[0].transport): done[0].num_bytes}
    assert measured.counts("tandem.engine.step.duration")[PREFILL] == 3  # 32 + 32 + 6 tokens
    assert "tandem.worker.attempt_failures" not in measured.names()
    free = measured.sums("tandem.worker.kv_free_blocks")
    assert free == measured.sums("tandem.worker.kv_blocks")
    # Both workers share this process's meter, on which a gauge exists once.
    assert set(free) == {labels(worker_id="prefill-0")}


async def test_a_worker_shows_the_tiers_of_its_cache(tiny_llama: PreparedModel) -> None:
    measured = Measured()
    with tiers_behind(with_redis=False) as tiers:
        caches = (make_cache(), None)
        async with WorkerPair(tiny_llama, measured_by=measured.meter, caches=caches, attach_tiers=tiers.attach) as pair:
            result = await pair.run(_task(70, 2), KvSource.HANDOVER)
            assert result.failures() == []
            blocks = measured.sums("tandem.cache.tier.blocks")
            assert blocks == {labels(tier="device"): 70 // 16, labels(tier="host"): 0}
            assert measured.sums("tandem.cache.tier.demoted") == {labels(tier="host"): 0}
