"""The blocking client against a real gRPC server on loopback."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tandem.client import (
    ChatMessage,
    Client,
    DeadlineExceeded,
    FailedPrecondition,
    FinishReason,
    InternalError,
    InvalidArgument,
    OutputDelta,
    Overloaded,
    PriorityClass,
    SequenceFinished,
    StreamCompleted,
    StreamStarted,
    Unavailable,
)
from tandem.core.inference import SamplingOptions
from tandem.rpc.channels import ServerLimits
from tests.fakes.inference_server import (
    CARD,
    TIMINGS,
    WORKERS,
    FakeInference,
    RunningServer,
    fake_inference_server,
)


@pytest.fixture
def server() -> Iterator[RunningServer]:
    with fake_inference_server() as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> Iterator[Client]:
    with Client(server.address, timeout_s=10) as made:
        yield made


def test_generate_from_text_tokens_and_messages(client: Client) -> None:
    assert client.generate("a b c").text == "a b c"
    assert client.generate(token_ids=[7, 8]).text == "7 8"
    assert client.generate(messages=[{"role": "user", "content": "hi"}]).text == "user hi"
    assert client.chat([ChatMessage(role="user", content="hi")]).text == "user hi"


def test_the_whole_answer_arrives(client: Client, server: RunningServer) -> None:
    answer = client.generate("x y", n=2)
    assert answer.request_id == server.handler.calls[0].request_id
    assert [sequence.index for sequence in answer.sequences] == [0, 1]
    assert answer.token_ids == (0, 1)
    assert answer.finish_reason is FinishReason.STOP
    assert answer.sequences[0].matched_stop == "!"
    assert (answer.usage.prompt_tokens, answer.usage.output_tokens) == (2, 4)
    assert answer.timings == TIMINGS
    assert answer.workers == WORKERS


def test_every_option_reaches_the_server(client: Client, server: RunningServer) -> None:
    client.generate(
        "x",
        model="words",
        n=3,
        max_tokens=9,
        stop="END",
        stop_token_ids=[4],
        ignore_eos=True,
        include_stop=True,
        temperature=0.7,
        top_k=5,
        top_p=0.9,
        min_p=0.1,
        repetition_penalty=1.1,
        presence_penalty=0.2,
        frequency_penalty=0.3,
        logit_bias={3: -1.5},
        seed=2**64 - 1,
        logprobs=0,
        priority="batch",
        label="mine",
    )
    request = server.handler.requests[0]
    assert (request.model, request.num_sequences, request.max_tokens, request.label) == ("words", 3, 9, "mine")
    assert (request.stop, request.stop_token_ids) == (("END",), (4,))
    assert (request.ignore_eos, request.include_stop) == (True, True)
    assert request.priority is PriorityClass.BATCH
    assert request.sampling == SamplingOptions(
        temperature=0.7,
        top_k=5,
        top_p=0.9,
        min_p=0.1,
        repetition_penalty=1.1,
        presence_penalty=0.2,
        frequency_penalty=0.3,
        logit_bias={3: -1.5},
        seed=2**64 - 1,
        num_logprobs=0,
    )


def test_what_is_left_out_stays_the_servers_choice(client: Client, server: RunningServer) -> None:
    client.generate("x")
    request = server.handler.requests[0]
    assert request.sampling == SamplingOptions()
    assert (request.max_tokens, request.num_sequences, request.model) == (None, 1, "")


def test_stream_yields_typed_events_without_keepalives(client: Client) -> None:
    with client.stream("a b", n=2) as stream:
        events = list(stream)
    assert [type(event) for event in events] == [
        StreamStarted,
        *[OutputDelta] * 4,
        *[SequenceFinished] * 2,
        StreamCompleted,
    ]


def test_stream_collects_to_what_the_unary_call_answers(client: Client) -> None:
    with client.stream("a b c", n=2) as stream:
        collected = stream.collect()
    unary = client.generate("a b c", n=2)
    assert collected.sequences == unary.sequences
    assert collected.usage == unary.usage


def test_stream_texts(client: Client) -> None:
    with client.stream("a b c", n=2) as stream:
        assert list(stream.texts()) == ["a", " b", " c"]


def test_leaving_a_stream_cancels_the_request(client: Client, server: RunningServer) -> None:
    server.handler.delay_s = 0.05
    with client.stream(" ".join(["word"] * 1000)) as stream:
        for event in stream:
            if isinstance(event, OutputDelta):
                break
        assert not server.handler.closed.is_set()
    assert server.handler.closed.wait(5)


def test_a_stream_outside_with_is_refused(client: Client) -> None:
    with pytest.raises(RuntimeError, match=r"with client\.stream"):
        list(client.stream("a"))


def test_tokenize_detokenize_models_status(client: Client) -> None:
    assert client.tokenize("a b c") == (0, 1, 2)
    assert client.tokenize(messages=[{"role": "user", "content": "hi"}]) == (0, 1)
    assert client.detokenize([3, 4]) == "3 4"
    assert client.models() == (CARD,)
    status = client.status()
    assert (status.ready, status.num_ended) == (True, {"ok": 3})


def test_overload_is_retried_after_the_time_the_server_names(client: Client, server: RunningServer) -> None:
    server.handler.failures = [Overloaded("full", retry_after_s=0.2)]
    begin_s = time.monotonic()
    assert client.generate("a").text == "a"
    assert time.monotonic() - begin_s >= 0.2
    assert len(server.handler.calls) == 2


def test_a_stream_that_showed_nothing_is_retried(client: Client, server: RunningServer) -> None:
    server.handler.failures = [Unavailable("lost"), Unavailable("lost")]
    with client.stream("a b") as stream:
        assert stream.collect().text == "a b"
    assert len(server.handler.calls) == 3


def test_a_stream_that_showed_output_is_not_retried(client: Client, server: RunningServer) -> None:
    server.handler.failures = [Unavailable("lost", reason="WORKER_LOST")]
    server.handler.fail_after = 1
    seen = []
    with client.stream("a b") as stream, pytest.raises(Unavailable) as caught:
        for event in stream:
            seen.append(event)
    assert [type(event) for event in seen] == [StreamStarted, OutputDelta]
    assert caught.value.reason == "WORKER_LOST"
    assert len(server.handler.calls) == 1


def test_retries_end(client: Client, server: RunningServer) -> None:
    server.handler.failures = [Unavailable("lost") for _ in range(10)]
    with pytest.raises(Unavailable):
        client.with_options(retries=1).generate("a")
    assert len(server.handler.calls) == 2


def test_the_callers_fault_is_not_retried(client: Client, server: RunningServer) -> None:
    server.handler.failures = [InvalidArgument("max_tokens", "is 0", remedy="ask for at least 1 token")]
    with pytest.raises(InvalidArgument) as caught:
        client.generate("a")
    assert caught.value.field == "max_tokens"
    assert str(caught.value) == "max_tokens: is 0; ask for at least 1 token"
    assert caught.value.metadata["request_id"] == server.handler.calls[0].request_id
    assert len(server.handler.calls) == 1


def test_a_defect_shows_its_request_id_and_nothing_else(client: Client, server: RunningServer) -> None:
    server.handler.failures = [RuntimeError("/secret/path of 10.0.0.7")]
    with pytest.raises(InternalError) as caught:
        client.generate("a")
    assert "secret" not in str(caught.value)
    assert "10.0.0.7" not in repr(caught.value.metadata)
    assert caught.value.metadata["request_id"] in str(caught.value)


def test_the_deadline_ends_the_call_by_name(client: Client, server: RunningServer) -> None:
    server.handler.delay_s = 5
    begin_s = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        client.with_options(timeout_s=0.2).generate("a")
    assert time.monotonic() - begin_s < 2
    left_s = server.handler.calls[0].deadline_left_s
    assert left_s is not None
    assert 0 < left_s < 0.2


def test_wait_until_ready(client: Client, server: RunningServer) -> None:
    with pytest.raises(Unavailable, match=r"did not become ready within 0\.3 s"):
        client.wait_until_ready(timeout_s=0.3)
    server.serve()
    client.wait_until_ready(timeout_s=5)


def test_nobody_there() -> None:
    with Client("127.0.0.1:1", retries=0) as client:
        with pytest.raises(Unavailable):
            client.generate("a")
        with pytest.raises(Unavailable, match="did not become ready"):
            client.wait_until_ready(timeout_s=0.2)


def test_a_closed_client_says_so(server: RunningServer) -> None:
    client = Client(server.address)
    client.close()
    with pytest.raises(FailedPrecondition, match="closed"):
        client.generate("a")


def test_a_request_over_the_size_limit_names_it(client: Client) -> None:
    with pytest.raises(InvalidArgument, match="larger than max"):
        client.generate("x" * (2 * 1024 * 1024))


@pytest.mark.parametrize(("num_connections", "num_begun"), [(1, 1), (2, 2)])
def test_streams_over_a_connections_limit_need_another_connection(num_connections: int, num_begun: int) -> None:
    handler = FakeInference(delay_s=30)
    with (
        fake_inference_server(handler, limits=ServerLimits(max_concurrent_streams=1)) as server,
        Client(server.address, num_connections=num_connections, timeout_s=20) as client,
        client.stream("a") as first,
    ):
        next(iter(first))
        with client.with_options(timeout_s=0.5).stream("b") as second, contextlib.suppress(DeadlineExceeded):
            next(iter(second))
        assert len(handler.requests) == num_begun


def test_import_is_light() -> None:
    """The SDK must not pull in what only servers need."""
    code = (
        "import sys, tandem.client;"
        "heavy = {'torch', 'ray', 'transformers', 'numpy', 'pydantic', 'cryptography', 'structlog'} & set(sys.modules);"
        "print(sorted(heavy)); sys.exit(bool(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[]", "")
