"""Far too little KV memory for what is asked, over both workers: everything ends, with the right tokens."""

import asyncio
from dataclasses import replace

from tandem.core.ids import LOCAL_TENANT, new_request_id
from tandem.core.prepared_model import PreparedModel
from tandem.core.reasons import NO_BLOCKS, NO_SLOT
from tandem.core.types import GenerationTask, KvSource, SamplingParams, StopParams
from tandem.engine.config import EngineConfig
from tests.fakes.worker_pair import WorkerPair

NUM_REQUESTS = 32
BLOCKS = 24  # of 16 tokens: three or four of these requests at their end


def _task(number: int) -> GenerationTask:
    return GenerationTask(
        request_id=new_request_id(),
        attempt=0,
        tenant=LOCAL_TENANT,
        prompt_token_ids=tuple(4 + (31 * number + 7 * i) % 250 for i in range(33 + number)),
        num_sequences=1,
        sampling=SamplingParams(),
        stop=StopParams(max_tokens=60, ignore_eos=True),
        deadline_left_s=100.0,
    )


async def test_32_long_requests_end_in_24_blocks(tiny_llama: PreparedModel) -> None:
    """Reservations are refused and asked for again, as the router does; running sequences preempt each other."""
    tight = EngineConfig(num_blocks=BLOCKS, max_batched_tokens=32, growth_margin=0.0)
    num_refused = 0

    async with WorkerPair(tiny_llama, engine=EngineConfig(num_blocks=512)) as roomy:
        expected = await asyncio.gather(*(roomy.run(_task(n), KvSource.LOCAL) for n in range(NUM_REQUESTS)))

    async with WorkerPair(tiny_llama, engine=tight) as pair:

        async def run(number: int) -> list[tuple[int, ...]]:
            nonlocal num_refused
            pause_s = 0.02
            while True:
                source = KvSource.LOCAL if number % 3 == 0 else KvSource.HANDOVER
                result = await pair.run(replace(_task(number), request_id=new_request_id()), source, timeout_s=90.0)
                reasons = [failed.reason for failed in result.failures()]
                if not reasons:
                    return result.token_ids()
                assert set(reasons) <= {NO_BLOCKS, NO_SLOT}
                num_refused += 1
                await asyncio.sleep(pause_s)
                pause_s = min(1.0, 2 * pause_s)

        async with asyncio.timeout(120):
            got = await asyncio.gather(*(run(number) for number in range(NUM_REQUESTS)))
        assert got == [result.token_ids() for result in expected]
        assert num_refused > 0, "there was room for all of it: nothing was tested"
