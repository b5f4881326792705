"""The template process: ``python -m tandem.text.chat_process``, started by `tandem.text.chat_renderer` only.

It reads frames from standard input and writes frames to standard output (`tandem.text.chat_wire`), has no secrets in
its environment, may take little memory and write no file, and ends by itself: at end of input, and by an alarm if a
template runs on after its server is gone.
"""

import contextlib
import os
import resource
import signal
import traceback
from collections.abc import Iterator
from typing import BinaryIO, TypeVar

import jinja2
import msgspec

from tandem.core.types import ChatMessage
from tandem.text.chat_template import ChatTemplate, OutputTooLarge, TemplateRefused
from tandem.text.chat_wire import HEADER, Hello, Outcome, Render, Reply, Setup, frame

MAX_MEMORY_BYTES = 512 * 1024 * 1024
# The server kills at its limit; the alarm is for a template whose server is no longer there.
_ALARM_FACTOR = 4.0

_Message = TypeVar("_Message", Setup, Render)


def main() -> None:
    """Serve one template until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the server decides when we end
    _limit_resources()
    with os.fdopen(os.dup(1), "wb", buffering=0) as replies, os.fdopen(os.dup(0), "rb") as requests:
        os.dup2(2, 1)  # nothing but frames may reach the server
        _send(replies, Hello(os.getpid()))
        setup = _receive(requests, Setup)
        if setup is None:
            return
        template = ChatTemplate(setup.source, setup.special_tokens)
        with _alarm(setup.compile_limit_s):
            reply = _compile(template)
        _send(replies, reply)
        while (request := _receive(requests, Render)) is not None:
            with _alarm(setup.render_limit_s):
                reply = _render(template, request)
            _send(replies, reply)


def _compile(template: ChatTemplate) -> Reply:
    try:
        template.compile()
    # The template is foreign code: whatever it raises is an answer, not our crash.
    except Exception as error:  # noqa: BLE001
        line = f" in line {error.lineno}" if isinstance(error, jinja2.TemplateSyntaxError) else ""
        return Reply(Outcome.FAILED, f"{type(error).__name__}{line}: {str(error)[:500]}")
    return Reply(Outcome.OK)


def _render(template: ChatTemplate, request: Render) -> Reply:
    messages = [ChatMessage(role=role, content=content) for role, content in request.messages]
    try:
        text = template.render(
            messages, add_generation_prompt=request.add_generation_prompt, variables=request.variables
        )
        text.encode("utf-8")
    except TemplateRefused as error:
        return Reply(Outcome.REFUSED, (error.message or "")[:1000])
    except OutputTooLarge:
        return Reply(Outcome.TOO_LARGE)
    # The template is foreign code: whatever it raises is an answer, not our crash.
    except Exception as error:  # noqa: BLE001
        return Reply(Outcome.FAILED, _where(error))
    return Reply(Outcome.OK, text)


def _where(error: Exception) -> str:
    """Kind of the error and the template's line. Not its message, which may quote the prompt and would be logged."""
    lines = [str(frame.lineno) for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<template>"]
    return f"{type(error).__name__} in line {lines[-1]}" if lines else type(error).__name__


def _limit_resources() -> None:
    for limit, value in (
        (resource.RLIMIT_AS, MAX_MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        # Not every system offers every limit; the server's kill works without them.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(limit, (value, value))


@contextlib.contextmanager
def _alarm(limit_s: float) -> Iterator[None]:
    """Let the system end this process if the body runs far beyond its limit."""
    signal.setitimer(signal.ITIMER_REAL, limit_s * _ALARM_FACTOR)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _receive(requests: BinaryIO, kind: type[_Message]) -> _Message | None:
    header = requests.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    (size,) = HEADER.unpack(header)
    body = requests.read(size)
    return msgspec.msgpack.decode(body, type=kind) if len(body) == size else None


def _send(replies: BinaryIO, message: Hello | Reply) -> None:
    data = memoryview(frame(message))
    while data:
        data = data[replies.write(data) :]


if __name__ == "__main__":
    main()
