"""Templates that do harm: each is stopped in time, the next request is served, and no process is left."""

import asyncio
import contextlib
import os
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from tandem.core.errors import InvalidArgument, ModelError, Overloaded, TandemError, Unavailable
from tandem.text.chat import (
    ChatLimits,
    ChatMessage,
    ChatRenderer,
    ChatTemplate,
    ChatTemplateFailed,
    ChatTemplateTimeout,
)

PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
# The harm happens only when asked for, so that the same renderer can show that it goes on serving.
LOOP = "{% for _ in range(99999) %}"
ENDLESS = LOOP * 3 + "{% endfor %}" * 3
HARMFUL = {
    "endless loops": ENDLESS,
    "endless loops in a filter": "{{ range(99999) | map('string') | join | length * 0 }}" + ENDLESS,
    "endless power": "{% set n = 8 + messages | length %}{% set x = n ** (n ** n) %}",
    "endless macro": "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "string multiplication": "{% set n = messages | length %}{{ ('a' * 10 ** 11 * n) | length }}",
    "list multiplication": "{% set n = messages | length %}{{ ([n] * 10 ** 10) | length }}",
    "too much output": "{% for a in range(99999) %}{{ messages[0].content }}{% endfor %}",
    "growing string": "{% set ns = namespace(x='a') %}" + LOOP + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "padding": "{{ 'a' | center(10 ** 10) }}",
    "escape": "{{ messages.__class__.__mro__ }}",
    "escape by attribute": "{{ (messages | attr('__class__')) ~ ''.__class__.__mro__[1].__subclasses__() }}",
}
LIMITS = ChatLimits()


def user(text: str) -> list[ChatMessage]:
    return [ChatMessage(role="user", content=text)]


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE}


def environment_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


@asynccontextmanager
async def renderer_of(source: str, limits: ChatLimits = LIMITS) -> AsyncIterator[ChatRenderer]:
    before = children()
    async with ChatRenderer(ChatTemplate(source, {}), limits=limits) as renderer:
        yield renderer
    assert children() <= before, "a template process was left behind"


@asynccontextmanager
async def watched_loop() -> AsyncIterator[list[float]]:
    """How late the event loop woke up, in seconds."""
    lateness: list[float] = []

    async def watch() -> None:
        while True:
            started = time.perf_counter()
            await asyncio.sleep(0.005)
            lateness.append(time.perf_counter() - started - 0.005)

    task = asyncio.create_task(watch())
    try:
        yield lateness
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_renders_and_keeps_its_process_warm() -> None:
    async with renderer_of(PLAIN) as renderer:
        await renderer.start()
        first = children()
        for text in ("hi", "é🙂" * 50_000, ""):
            assert await renderer.render(user(text)) == "<user>" + text
        assert children() == first


@pytest.mark.parametrize("harm", HARMFUL)
async def test_a_harmful_template_is_stopped_and_the_next_render_works(harm: str) -> None:
    source = "{% if messages[0].content == 'harm' %}" + HARMFUL[harm] + "{% else %}fine{% endif %}"
    async with renderer_of(source) as renderer:
        await renderer.start()
        async with watched_loop() as lateness:
            started = time.perf_counter()
            with pytest.raises((ChatTemplateTimeout, ChatTemplateFailed)) as caught:
                await renderer.render(user("harm"))
            took_s = time.perf_counter() - started
        assert took_s < 2 * LIMITS.render_limit_s + 0.5
        assert statistics.median([0.0, *lateness]) < 0.01
        assert "harm" not in str(caught.value)
        assert await renderer.render(user("good")) == "fine"


async def test_the_limit_is_the_one_given() -> None:
    async with renderer_of(ENDLESS) as renderer:
        await renderer.start()
        started = time.perf_counter()
        with pytest.raises(ChatTemplateTimeout, match="250 ms") as caught:
            await renderer.render(user("x"))
        assert 0.25 <= time.perf_counter() - started < 1.0
        assert caught.value.reason == "CHAT_TEMPLATE_TIMEOUT"


async def test_a_slow_render_does_not_block_the_others() -> None:
    source = "{% if messages[0].content == 'slow' %}" + ENDLESS + "{% endif %}fine"
    async with renderer_of(source, ChatLimits(render_limit_s=2.0)) as renderer:
        slow = asyncio.create_task(renderer.render(user("slow")))
        await asyncio.sleep(0)
        assert await renderer.render(user("quick")) == "fine"
        assert not slow.done()
        with pytest.raises(ChatTemplateTimeout):
            await slow


async def test_waiting_for_a_free_process_has_an_end() -> None:
    limits = ChatLimits(num_processes=1, render_limit_s=1.5, queue_limit_s=0.05)
    async with renderer_of(ENDLESS, limits) as renderer:
        await renderer.start()
        slow = asyncio.create_task(renderer.render(user("x")))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as caught:
            await renderer.render(user("y"))
        assert caught.value.retry_after_s is not None
        with pytest.raises(ChatTemplateTimeout):
            await slow


async def test_a_cancelled_render_does_not_answer_the_next_one() -> None:
    source = "{% if messages[0].content == 'slow' %}" + ENDLESS + "{% endif %}{{ messages[0].content }}"
    async with renderer_of(source, ChatLimits(num_processes=1, render_limit_s=20.0)) as renderer:
        await renderer.start()
        before = children()
        slow = asyncio.create_task(renderer.render(user("slow")))
        await asyncio.sleep(0.05)
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        assert await renderer.render(user("next")) == "next"
        assert not children() & before


async def test_many_at_once_get_their_own_answers() -> None:
    async with renderer_of(PLAIN) as renderer:
        texts = [f"message {index}" for index in range(40)]
        answers = await asyncio.gather(*(renderer.render(user(text)) for text in texts))
        assert answers == ["<user>" + text for text in texts]
        assert len(children()) <= LIMITS.num_processes


async def test_a_process_killed_from_outside_is_replaced() -> None:
    async with renderer_of(PLAIN) as renderer:
        await renderer.start()
        (pid,) = children()
        os.kill(pid, signal.SIGKILL)
        while pid in children():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert await renderer.render(user("hi")) == "<user>hi"


async def test_the_template_s_refusal_is_the_caller_s_to_read() -> None:
    async with renderer_of("{{ raise_exception('roles must alternate') }}") as renderer:
        with pytest.raises(InvalidArgument, match=r"messages: .*refuses them: roles must alternate") as caught:
            await renderer.render(user("x"))
        assert caught.value.reason == "CHAT_TEMPLATE_REFUSED"


async def test_an_error_in_the_template_shows_nothing_of_prompt_or_template() -> None:
    async with renderer_of("{{ {}[messages[0].content].secret_name }}") as renderer:
        with pytest.raises(ChatTemplateFailed) as caught:
            await renderer.render(user("my password"))
        assert "password" not in str(caught.value)
        assert "secret_name" not in str(caught.value)


@pytest.mark.parametrize("source", ["{% if %}", "{% no_such_tag %}", "{{ 9 ** (9 ** 9) }}"])
async def test_a_template_that_does_not_compile_is_a_model_error(source: str) -> None:
    async with renderer_of(source, ChatLimits(compile_limit_s=0.5)) as renderer:
        with pytest.raises(ModelError, match=r"does not compile|did not compile") as caught:
            await renderer.start()
        assert caught.value.remedy


async def test_bad_input_never_reaches_a_process() -> None:
    async with renderer_of(PLAIN) as renderer:
        with pytest.raises(InvalidArgument, match="messages: is empty"):
            await renderer.render([])
        with pytest.raises(InvalidArgument, match=r"messages\[0\].content: holds the lone surrogate"):
            await renderer.render(user("\ud800"))
        with pytest.raises(InvalidArgument, match=r"template_variables\.x: holds the lone surrogate"):
            await renderer.render(user("x"), variables={"x": "\udfff"})
        with pytest.raises(InvalidArgument, match="reserved"):
            await renderer.render(user("x"), variables={"tokenize": True})
        assert not children()


async def test_variables_keep_their_types() -> None:
    source = "{{ a is boolean }}{{ b is integer }}{{ c is float }}{{ d is string }}"
    async with renderer_of(source) as renderer:
        text = await renderer.render(user("x"), variables={"a": True, "b": 2**60, "c": 1.5, "d": "s"})
        assert text == "TrueTrueTrueTrue"


async def test_integers_too_large_for_the_wire_are_refused() -> None:
    async with renderer_of(PLAIN) as renderer:
        with pytest.raises(InvalidArgument, match=r"template_variables\.x"):
            await renderer.render(user("x"), variables={"x": 2**70})


async def test_closed_means_closed() -> None:
    async with renderer_of(PLAIN) as renderer:
        await renderer.render(user("x"))
        await renderer.close()
        await renderer.close()
        with pytest.raises(Unavailable):
            await renderer.render(user("x"))


async def test_close_during_a_start_leaves_nothing() -> None:
    async with renderer_of(PLAIN) as renderer:
        task = asyncio.create_task(renderer.start())
        await asyncio.sleep(0.01)
        await renderer.close()
        await task
        assert not children()


async def test_close_during_a_render_leaves_nothing() -> None:
    async with renderer_of(ENDLESS, ChatLimits(render_limit_s=0.5)) as renderer:
        task = asyncio.create_task(renderer.render(user("x")))
        await asyncio.sleep(0.2)
        await renderer.close()
        with pytest.raises(TandemError):
            await task
        assert not children()


async def test_the_process_sees_no_environment_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_TEST_SECRET", "secret")
    async with renderer_of(PLAIN) as renderer:
        await renderer.start()
        (pid,) = children()
        assert b"TANDEM_TEST_SECRET" not in environment_of(pid)


def test_the_process_ends_when_its_server_is_gone(tmp_path: Path) -> None:
    """The server is killed while a template runs on: the alarm ends the orphan."""
    script = tmp_path / "server.py"
    script.write_text(
        f"""
import asyncio
from tandem.text.chat import *

async def main() -> None:
    renderer = ChatRenderer(ChatTemplate({ENDLESS!r}, {{}}), limits=ChatLimits(render_limit_s=0.5))
    await renderer.start()
    print(renderer._idle[0].pid, flush=True)
    await renderer.render([ChatMessage(role="user", content="x")])

asyncio.run(main())
"""
    )
    server = psutil.Popen([sys.executable, str(script)], stdout=-1, stderr=-3)
    assert server.stdout is not None
    with server.stdout:
        helper = psutil.Process(int(server.stdout.readline()))
    time.sleep(0.1)
    server.kill()
    server.wait(10)
    gone, alive = psutil.wait_procs([helper], timeout=10)
    assert gone
    assert not alive
