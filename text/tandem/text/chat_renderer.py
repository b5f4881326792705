"""Renders chat templates under limits: in separate processes that are killed when they take too long.

Templates come from the model's folder only; a request brings messages and scalar variables. What holds, whatever the
template does: the event loop never runs template code, one render takes at most ``render_limit_s``, its text at most
4 times the input plus 64 KiB, other requests go on in the other processes, and after ``close`` no process is left.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import structlog

from tandem.core.errors import InternalError, InvalidArgument, ModelError, Overloaded, Unavailable
from tandem.core.types import ChatMessage
from tandem.text.chat_helper import ChatHelper, HelperFailed
from tandem.text.chat_template import ChatTemplate, Scalar, check_variables, max_output_bytes
from tandem.text.chat_wire import Outcome, Render, Reply
from tandem.text.utf8 import require_encodable

_log = structlog.get_logger(__name__)


class ChatTemplateTimeout(InternalError):
    """The model's chat template did not finish within the limit and was killed."""

    reason = "CHAT_TEMPLATE_TIMEOUT"


class ChatTemplateFailed(InternalError):
    """The model's chat template broke on these messages: an error in it, too much memory, too much text."""

    reason = "CHAT_TEMPLATE_FAILED"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatLimits:
    """Bounds on template rendering."""

    render_limit_s: float = 0.25  # wall time of one render, without the start of a process
    compile_limit_s: float = 5.0  # wall time to compile the template in a new process
    start_limit_s: float = 60.0  # wall time until a new process answers (a loaded machine imports slowly)
    queue_limit_s: float = 5.0  # wait for a free process
    num_processes: int = 2  # renders at the same time; a slow one delays at most those behind it


class ChatRenderer:
    """A small pool of template processes for one template, started when first needed. Use from one event loop."""

    def __init__(self, template: ChatTemplate, *, limits: ChatLimits | None = None) -> None:
        self._template = template
        self._limits = limits or ChatLimits()
        self._idle: list[ChatHelper] = []
        self._slots = asyncio.Semaphore(self._limits.num_processes)
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Start one process, so that the first request finds it warm and a broken template shows up now.

        Raises:
            ModelError: the template does not compile.
        """
        async with self._slots:
            helper = await self._take()
            self._idle.append(helper)  # only now: `close` may have replaced the list meanwhile

    async def render(
        self,
        messages: Sequence[ChatMessage],
        *,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Scalar] | None = None,
    ) -> str:
        """The prompt's text for ``messages``; encode it without special tokens.

        Raises:
            InvalidArgument: a variable is not allowed, a message holds a lone surrogate, or the template itself refuses
                the messages (reason ``CHAT_TEMPLATE_REFUSED``, with the template's words).
            ChatTemplateTimeout, ChatTemplateFailed: see there.
            ModelError: the template does not compile.
            Overloaded: no process became free in time.
            Unavailable: the renderer is closed.
        """
        request = self._request(messages, add_generation_prompt, variables or {})
        max_bytes = max_output_bytes(messages, request.variables)
        try:
            async with asyncio.timeout(self._limits.queue_limit_s):
                await self._slots.acquire()
        except TimeoutError:
            raise Overloaded("too many chat templates are being rendered; try again", retry_after_s=1.0) from None
        try:
            reply = await self._ask(request, max_bytes)
        finally:
            self._slots.release()
        return self._text_of(reply, max_bytes)

    async def close(self) -> None:
        """End every process. Renders under way finish within their limit; waiting ones get Unavailable."""
        self._closed = True
        await self._close_idle()
        # Every slot free means that no render or start is under way; new ones are refused.
        for _ in range(self._limits.num_processes):
            async with asyncio.timeout(self._limits.start_limit_s + self._limits.compile_limit_s):
                await self._slots.acquire()
        for _ in range(self._limits.num_processes):
            self._slots.release()
        await self._close_idle()  # a start under way has left its process here
        for task in list(self._ending):
            await task  # each has its own deadline

    async def _close_idle(self) -> None:
        idle, self._idle = self._idle, []
        async with asyncio.TaskGroup() as group:
            for helper in idle:
                group.create_task(helper.close())

    def _request(
        self, messages: Sequence[ChatMessage], add_generation_prompt: bool, variables: Mapping[str, Scalar]
    ) -> Render:
        if not messages:
            raise InvalidArgument("messages", "is empty", remedy="send at least one message")
        checked = check_variables(variables, self._template.special_tokens)
        for name, value in checked.items():
            if isinstance(value, str):
                require_encodable(value, f"template_variables.{name}")
        pairs = [
            (
                require_encodable(message.role, f"messages[{index}].role"),
                require_encodable(message.content, f"messages[{index}].content"),
            )
            for index, message in enumerate(messages)
        ]
        return Render(pairs, add_generation_prompt, checked)

    async def _take(self) -> ChatHelper:
        """An idle process, else a new one."""
        if self._closed:
            raise Unavailable("the chat renderer is closed")
        while self._idle:
            helper = self._idle.pop()
            if helper.alive:
                return helper
            self._end(helper)
        limits = self._limits
        try:
            return await ChatHelper.start(
                self._template,
                start_limit_s=limits.start_limit_s,
                compile_limit_s=limits.compile_limit_s,
                render_limit_s=limits.render_limit_s,
            )
        except HelperFailed as error:
            raise ModelError(
                f"the model's chat template does not compile: {error}",
                remedy="correct chat_template.jinja in the model's folder, or send prompts without chat",
            ) from None
        except TimeoutError:
            raise ModelError(
                f"the model's chat template did not compile within {limits.compile_limit_s:g} s",
                remedy="correct chat_template.jinja in the model's folder, or send prompts without chat",
            ) from None

    async def _ask(self, request: Render, max_bytes: int) -> Reply:
        helper = await self._take()
        try:
            reply = await helper.render(request, limit_s=self._limits.render_limit_s, max_bytes=max_bytes)
        except TimeoutError:
            self._end(helper)
            _log.warning("chat_template_killed", limit_s=self._limits.render_limit_s)
            raise ChatTemplateTimeout(
                f"the model's chat template did not finish within {self._limits.render_limit_s * 1000:g} ms; "
                "send fewer messages, or a prompt without chat"
            ) from None
        except HelperFailed as error:
            self._end(helper)
            _log.warning("chat_template_process_lost", error=str(error))
            raise ChatTemplateFailed("the model's chat template ended its process; send plain text") from None
        except BaseException:  # cancelled: an answer is under way that nobody will read
            self._end(helper)
            raise
        if self._closed:
            self._end(helper)
        else:
            self._idle.append(helper)
        return reply

    def _end(self, helper: ChatHelper) -> None:
        """Kill in the background: the caller gets its error at once."""
        task = asyncio.get_running_loop().create_task(helper.kill())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def _text_of(self, reply: Reply, max_bytes: int) -> str:
        match reply.outcome:
            case Outcome.OK:
                return reply.text
            case Outcome.REFUSED:
                raise InvalidArgument(
                    "messages",
                    f"the model's chat template refuses them: {reply.text}",
                    remedy="change the roles or their order",
                    reason="CHAT_TEMPLATE_REFUSED",
                )
            case Outcome.TOO_LARGE:
                raise ChatTemplateFailed(f"the model's chat template wrote more than {max_bytes} bytes")
            case Outcome.FAILED:
                # The details may name the template's insides: they are for the operator, not for the client.
                _log.warning("chat_template_failed", error=reply.text)
                raise ChatTemplateFailed("the model's chat template failed on these messages; the log has the reason")
