"""From a caller's request to a task for workers: limits, tokens, defaults. What fails here has cost no worker anything.

Tokenising runs in threads (the library releases the interpreter lock) and templates in processes of their own, so the
event loop never does either.
"""

import asyncio
import re
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

from tandem.core.clock import Clock
from tandem.core.errors import FailedPrecondition, InternalError, InvalidArgument, ModelError, TandemError
from tandem.core.ids import RequestId, Tenant
from tandem.core.inference import (
    CachePin,
    ChatPrompt,
    DetokenizeRequest,
    GenerateRequest,
    Prompt,
    SamplingOptions,
    TextPrompt,
    TokenizeRequest,
    TokenPrompt,
)
from tandem.core.limits import RequestLimits, check_task
from tandem.core.types import GenerationTask, PrefixPin, SamplingParams, StopParams
from tandem.router.pins import check_pin, num_common
from tandem.router.served_model import SamplingDefaults, ServedModel

Number = TypeVar("Number", int, float)
_ROLE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A checked task, and how long its prompt took to read."""

    task: GenerationTask
    tokenize_ms: float


class Intake:
    """Reads requests for one model."""

    def __init__(
        self,
        model: ServedModel,
        *,
        limits: RequestLimits,
        default_max_tokens: int,
        num_threads: int,
        clock: Clock,
        draw_seed: Callable[[], int] = lambda: secrets.randbits(63),
        max_pin_ttl_s: float = 3600.0,
    ) -> None:
        self.model = model
        self._limits = limits
        self._default_max_tokens = default_max_tokens
        self._clock = clock
        self._draw_seed = draw_seed
        self._max_pin_ttl_s = max_pin_ttl_s
        self._threads = ThreadPoolExecutor(max_workers=num_threads, thread_name_prefix="tokenize")

    async def close(self) -> None:
        """End threads and template processes."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self.model.renderer is not None:
            await self.model.renderer.close()

    async def prepare(self, request: GenerateRequest, *, request_id: RequestId, tenant: Tenant) -> Prepared:
        """Return the task of attempt 0. Raises InvalidArgument or NotFound naming what is wrong."""
        self.model.require(request.model)
        label_bytes = len(request.label.encode("utf-8", errors="surrogatepass"))
        if label_bytes > self._limits.max_label_bytes:
            raise InvalidArgument(
                "label", f"is {label_bytes} bytes long", remedy=f"use at most {self._limits.max_label_bytes} bytes"
            )
        begun_s = self._clock.now_s()
        token_ids = await self._tokens(request.prompt)
        tokenize_ms = (self._clock.now_s() - begun_s) * 1e3
        left = self.model.limits.max_context_tokens - len(token_ids)
        max_tokens = request.max_tokens
        if max_tokens is None:
            max_tokens = max(1, min(self._default_max_tokens, left))
        task = GenerationTask(
            request_id=request_id,
            attempt=0,
            tenant=tenant,
            prompt_token_ids=token_ids,
            num_sequences=request.num_sequences,
            sampling=self._sampling(request.sampling, self.model.defaults),
            stop=StopParams(
                max_tokens=max_tokens,
                stop=request.stop,
                stop_token_ids=request.stop_token_ids,
                ignore_eos=request.ignore_eos,
                include_stop=request.include_stop,
            ),
            priority=request.priority,
            pin=None if request.cache_pin is None else await self._pin(request.cache_pin, request.prompt, token_ids),
        )
        check_task(task, self.model.limits, self._limits)
        return Prepared(task=task, tokenize_ms=tokenize_ms)

    async def tokenize(self, request: TokenizeRequest) -> tuple[int, ...]:
        """Tokens of a text or a conversation, exactly as ``prepare`` would read it."""
        self.model.require(request.model)
        return await self._tokens(request.prompt, add_special_tokens=request.add_special_tokens)

    async def detokenize(self, request: DetokenizeRequest) -> str:
        """Text of tokens."""
        self.model.require(request.model)
        most = self._limits.max_prompt_bytes
        if len(request.token_ids) > most:
            raise InvalidArgument("token_ids", f"has {len(request.token_ids)} ids", remedy=f"use at most {most}")
        return await asyncio.get_running_loop().run_in_executor(
            self._threads,
            lambda: self.model.tokenizer.decode(request.token_ids, skip_special_tokens=request.skip_special_tokens),
        )

    async def _pin(self, pin: CachePin, prompt: Prompt, token_ids: tuple[int, ...]) -> PrefixPin:
        check_pin(pin, prompt, num_tokens=len(token_ids), max_ttl_s=self._max_pin_ttl_s)
        num_tokens = len(token_ids) if pin.num_tokens is None else pin.num_tokens
        if pin.num_messages is not None and isinstance(prompt, ChatPrompt):
            start = replace(prompt, messages=prompt.messages[: pin.num_messages], add_generation_prompt=False)
            num_tokens = num_common(await self._tokens(start), token_ids)
        return PrefixPin(num_tokens=num_tokens, ttl_s=pin.ttl_s)

    async def _tokens(self, prompt: Prompt, *, add_special_tokens: bool = True) -> tuple[int, ...]:
        match prompt:
            case TokenPrompt():
                return prompt.token_ids
            case TextPrompt():
                self._check_bytes("prompt.text", len(prompt.text.encode("utf-8", errors="surrogatepass")))
                return await self._encode(prompt.text, add_special_tokens=add_special_tokens)
            case ChatPrompt():
                return await self._encode(await self._render(prompt), add_special_tokens=False)

    async def _render(self, prompt: ChatPrompt) -> str:
        if self.model.renderer is None:
            raise FailedPrecondition(
                f"model {self.model.name!r} has no chat template; send text or tokens", reason="NO_CHAT_TEMPLATE"
            )
        if len(prompt.messages) > self._limits.max_messages:
            raise InvalidArgument(
                "chat.messages", f"has {len(prompt.messages)} turns", remedy=f"use at most {self._limits.max_messages}"
            )
        for index, message in enumerate(prompt.messages):
            # The role stands in the frame of a turn: a free text there could write a turn of its own.
            if not _ROLE.fullmatch(message.role):
                raise InvalidArgument(
                    f"chat.messages[{index}].role",
                    f"is {message.role[:40]!r}",
                    remedy="use a word such as system, user or assistant",
                )
        sizes = (
            len(m.role.encode(errors="surrogatepass")) + len(m.content.encode(errors="surrogatepass"))
            for m in prompt.messages
        )
        self._check_bytes("chat.messages", sum(sizes))
        try:
            return await self.model.renderer.render(
                prompt.messages,
                add_generation_prompt=prompt.add_generation_prompt,
                variables=prompt.template_variables,
            )
        except (InternalError, ModelError) as error:
            raise _as_public(error) from error

    async def _encode(self, text: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        def encode() -> tuple[int, ...]:
            return tuple(self.model.tokenizer.encode(text, add_special_tokens=add_special_tokens))

        return await asyncio.get_running_loop().run_in_executor(self._threads, encode)

    def _check_bytes(self, field: str, num_bytes: int) -> None:
        if num_bytes > self._limits.max_prompt_bytes:
            raise InvalidArgument(
                field, f"is {num_bytes} bytes long", remedy=f"use at most {self._limits.max_prompt_bytes} bytes"
            )

    def _sampling(self, asked: SamplingOptions, defaults: SamplingDefaults) -> SamplingParams:
        return SamplingParams(
            temperature=_given(asked.temperature, defaults.temperature),
            top_k=_given(asked.top_k, defaults.top_k),
            top_p=_given(asked.top_p, defaults.top_p),
            min_p=_given(asked.min_p, defaults.min_p),
            repetition_penalty=_given(asked.repetition_penalty, defaults.repetition_penalty),
            presence_penalty=_given(asked.presence_penalty, 0.0),
            frequency_penalty=_given(asked.frequency_penalty, 0.0),
            logit_bias=asked.logit_bias,
            seed=self._draw_seed() if asked.seed is None else asked.seed,
            num_logprobs=asked.num_logprobs,
        )


def _given(asked: Number | None, default: Number) -> Number:
    return default if asked is None else asked


def _as_public(error: TandemError) -> InternalError:
    """A broken template is the server's defect; its words stay in the log."""
    return InternalError("the model's chat template failed on this conversation", reason=error.reason)
