"""The router with the settings of its own process."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandem.core.types import Role
from tandem.inference.v1 import inference_pb2 as pb
from tandem.router.process import run_event_loop
from tests.fakes.fake_worker import FakeWorker, token_at
from tests.fakes.router_cluster import cluster


@pytest.fixture(autouse=True)
def _collector_as_before() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


def test_a_request_in_a_routers_process(tmp_path: Path) -> None:
    answers: list[pb.GenerateResponse] = []

    async def main() -> None:
        crew = [FakeWorker("prefill-0", Role.PREFILL), FakeWorker("decode-0", Role.DECODE)]
        async with cluster(tmp_path, crew) as found:
            chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="the")])
            answers.append(await found.generate(pb.GenerateRequest(chat=chat, max_tokens=9, n=2)))
            found.assert_nothing_left()

    run_event_loop(main())
    (answer,) = answers
    assert [list(s.token_ids) for s in answer.sequences] == [
        [token_at(child, position) for position in range(9)] for child in range(2)
    ]
    assert gc.get_threshold()[0] > 10_000
    assert gc.get_freeze_count() > 0


def test_an_error_of_the_main_coroutine_comes_out() -> None:
    async def main() -> None:
        raise LookupError("no model")

    with pytest.raises(LookupError, match="no model"):
        run_event_loop(main())
