"""The template process on its own: what it answers, what ends it, what it may not do."""

import subprocess
import sys
from collections.abc import Iterator

import msgspec
import pytest

from tandem.text.chat_process import MAX_MEMORY_BYTES
from tandem.text.chat_template import max_output_bytes
from tandem.text.chat_wire import HEADER, Hello, Outcome, Render, Reply, Setup, frame

Process = subprocess.Popen[bytes]


@pytest.fixture
def process() -> Iterator[Process]:
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "tandem.text.chat_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with child:
        yield child
        child.kill()


def send(process: Process, *messages: msgspec.Struct) -> None:
    assert process.stdin is not None
    process.stdin.write(b"".join(frame(message) for message in messages))
    process.stdin.flush()


def receive(process: Process) -> Reply:
    assert process.stdout is not None
    (size,) = HEADER.unpack(process.stdout.read(HEADER.size))
    return msgspec.msgpack.decode(process.stdout.read(size), type=Reply)


def setup(process: Process, source: str, limit_s: float = 5.0) -> Reply:
    assert process.stdout is not None
    (size,) = HEADER.unpack(process.stdout.read(HEADER.size))
    hello = msgspec.msgpack.decode(process.stdout.read(size), type=Hello)
    assert hello.pid == process.pid
    send(process, Setup(source, {"bos_token": "<s>"}, limit_s, limit_s))
    return receive(process)


def request(content: str = "hello", **variables: str | int | float | bool) -> Render:
    return Render([("user", content)], add_generation_prompt=True, variables=variables)


def test_answers_in_order_also_to_requests_sent_together(process: Process) -> None:
    assert setup(process, "{{ bos_token }}{{ messages[0].role }}:{{ messages[0].content }}") == Reply(Outcome.OK)
    send(process, request("one"), request("two"), request("three"))
    assert [receive(process).text for _ in range(3)] == ["<s>user:one", "<s>user:two", "<s>user:three"]


def test_ends_with_its_input(process: Process) -> None:
    setup(process, "x")
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(10) == 0


def test_ends_with_its_input_in_the_middle_of_a_frame(process: Process) -> None:
    setup(process, "x")
    assert process.stdin is not None
    process.stdin.write(HEADER.pack(100) + b"too short")
    process.stdin.close()
    assert process.wait(10) == 0


def test_ends_before_any_template_came(process: Process) -> None:
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(10) == 0


def test_a_template_that_does_not_parse_is_reported_with_its_line(process: Process) -> None:
    reply = setup(process, "ok\n{% if %}")
    assert reply.outcome is Outcome.FAILED
    assert reply.text.startswith("TemplateSyntaxError in line 2")


def test_an_error_is_reported_by_kind_and_line_without_the_prompt(process: Process) -> None:
    setup(process, "ok\n\n{{ {}[messages[0].content].x }}")
    send(process, request("my password"))
    assert receive(process) == Reply(Outcome.FAILED, "UndefinedError in line 3")


def test_refusals_carry_the_template_s_words_within_bounds(process: Process) -> None:
    setup(process, "{{ raise_exception(messages[0].content) }}")
    send(process, request("w" * 5000))
    assert receive(process) == Reply(Outcome.REFUSED, "w" * 1000)


def test_too_much_text(process: Process) -> None:
    setup(process, "{{ messages[0].content * 7000 }}")
    send(process, request("0123456789"), request("12345"))
    assert receive(process) == Reply(Outcome.TOO_LARGE)
    assert len(receive(process).text) == 35_000
    assert max_output_bytes([], {}) == 65_536


def test_too_much_memory_is_an_error_and_the_process_goes_on(process: Process) -> None:
    setup(process, "{% if n %}{{ ('a' * n) | length }}{% endif %}fine")
    send(process, request(n=2 * MAX_MEMORY_BYTES), request(n=0))
    assert receive(process) == Reply(Outcome.FAILED, "MemoryError in line 1")
    assert receive(process) == Reply(Outcome.OK, "fine")


def test_deep_recursion_is_an_error_and_the_process_goes_on(process: Process) -> None:
    setup(process, "{% macro f() %}{{ f() }}{% endmacro %}{% if go %}{{ f() }}{% endif %}fine")
    send(process, request(go=True), request(go=False))
    assert receive(process).outcome is Outcome.FAILED
    assert receive(process) == Reply(Outcome.OK, "fine")


def test_reserved_names_are_refused_here_too(process: Process) -> None:
    setup(process, "{{ bos_token }}")
    send(process, request(bos_token="mine"))
    assert receive(process).outcome is Outcome.FAILED


def test_the_alarm_ends_it_when_nobody_else_does(process: Process) -> None:
    loop = "{% for _ in range(99999) %}"
    setup(process, loop * 3 + "{% endfor %}" * 3, limit_s=0.1)
    send(process, request())
    assert process.wait(10) < 0  # by a signal


@pytest.mark.parametrize("outcome", Outcome)
def test_frames_survive_the_way(outcome: Outcome) -> None:
    data = frame(Reply(outcome, "é\x00🙂"))
    (size,) = HEADER.unpack(data[:4])
    assert size == len(data) - 4
    assert msgspec.msgpack.decode(data[4:], type=Reply) == Reply(outcome, "é\x00🙂")


def test_frames_refuse_other_types() -> None:
    body = msgspec.msgpack.encode({"messages": [["user", 3]], "add_generation_prompt": True, "variables": {}})
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(body, type=Render)
    body = msgspec.msgpack.encode({"messages": [], "add_generation_prompt": True, "variables": {"x": [1]}})
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(body, type=Render)
