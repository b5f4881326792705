"""A request's way through the router over real gRPC: streaming, unary, several sequences, both placements."""

from pathlib import Path

import pytest

from tandem.core.types import Role
from tandem.inference.v1 import inference_pb2 as pb
from tandem.router.config import PlacementSection, RouterConfig
from tandem.router.placement import PlacementMode
from tests.fakes.fake_worker import FakeWorker, text_at, token_at
from tests.fakes.router_cluster import Cluster, cluster, until


def pair() -> list[FakeWorker]:
    return [FakeWorker("prefill-0", Role.PREFILL), FakeWorker("decode-0", Role.DECODE)]


def request(max_tokens: int = 8, n: int = 1, text: str = "the and of") -> pb.GenerateRequest:
    return pb.GenerateRequest(text=text, max_tokens=max_tokens, n=n)


class Heard:
    """What a streaming caller got."""

    def __init__(self, n: int) -> None:
        self.tokens: list[list[int]] = [[] for _ in range(n)]
        self.texts = [""] * n
        self.finished: dict[int, pb.Finished] = {}
        self.started: pb.Started | None = None
        self.completed: pb.Completed | None = None

    def take(self, message: pb.StreamGenerateResponse) -> None:
        assert self.completed is None, "something came after completed"
        match message.WhichOneof("event"):
            case "started":
                assert self.started is None
                self.started = message.started
            case "delta":
                delta = message.delta
                assert delta.position == len(self.tokens[delta.index]), "a gap or a repeat"
                self.tokens[delta.index] += delta.token_ids
                self.texts[delta.index] += delta.text
            case "finished":
                assert message.finished.index not in self.finished
                self.finished[message.finished.index] = message.finished
            case "completed":
                self.completed = message.completed


async def listen(found: Cluster, asked: pb.GenerateRequest) -> Heard:
    heard = Heard(asked.n or 1)
    async for message in found.stream(asked):
        heard.take(message)
    return heard


@pytest.mark.parametrize("mode", list(PlacementMode))
@pytest.mark.parametrize("n", [1, 3])
async def test_a_stream_is_whole(tmp_path: Path, mode: PlacementMode, n: int) -> None:
    config = RouterConfig(port=0, placement=PlacementSection(mode=mode))
    async with cluster(tmp_path, pair(), config) as found:
        heard = await listen(found, request(max_tokens=12, n=n))
        for child in range(n):
            assert heard.tokens[child] == [token_at(child, position) for position in range(12)]
            assert heard.texts[child] == "".join(text_at(child, position) for position in range(12))
            assert heard.finished[child].finish_reason == pb.FINISH_REASON_LENGTH
        assert heard.started is not None
        assert heard.started.prompt_tokens > 0
        assert heard.completed is not None
        assert heard.completed.usage.output_tokens == 12 * n
        assert heard.completed.workers.decode_worker_id == "decode-0"
        local = mode is PlacementMode.AGGREGATED
        assert heard.completed.workers.prefill_worker_id == ("decode-0" if local else "prefill-0")
        assert heard.completed.timing.HasField("handover_ms") is not local
        assert heard.completed.timing.prefill_ms > 0
        assert heard.completed.timing.ttft_ms >= heard.completed.timing.prefill_ms
        await until(lambda: len(found.router.dispatcher.queue) == 0)
        found.assert_nothing_left()
        if not local:
            assert found.workers["prefill-0"].grants[0].grant.startswith(b"grant:")


async def test_unary_collects_the_same(tmp_path: Path) -> None:
    async with cluster(tmp_path, pair()) as found:
        answer = await found.generate(request(max_tokens=5, n=2))
        assert [list(s.token_ids) for s in answer.sequences] == [
            [token_at(child, position) for position in range(5)] for child in range(2)
        ]
        assert answer.sequences[1].text == "".join(text_at(1, position) for position in range(5))
        assert answer.attempts == 1
        assert len(answer.request_id) == 32
        found.assert_nothing_left()


async def test_one_token_requests_end_at_prefill_and_free_the_reservation(tmp_path: Path) -> None:
    async with cluster(tmp_path, pair()) as found:
        heard = await listen(found, request(max_tokens=1))
        assert heard.tokens == [[token_at(0, 0)]]
        decode = found.workers["decode-0"]
        await until(lambda: len(decode.aborts) == 1)
        assert decode.aborts[0].reason == "FINISHED"
        found.assert_nothing_left()
