"""The client for asyncio."""

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TypeVar, Unpack

import grpc.aio

from tandem.client.async_stream import AsyncGenerationStream, AsyncStreamCall
from tandem.client.attempts import Attempts
from tandem.client.metadata import call_metadata
from tandem.client.requests import (
    ChatOptions,
    GenerateOptions,
    Message,
    build_generate,
    build_tokenize,
    checked_token_ids,
)
from tandem.client.retry import RetryBudget
from tandem.client.settings import DEFAULT_RETRIES, DEFAULT_TIMEOUT_S, Settings
from tandem.core.cache import CacheStatus, Flushed
from tandem.core.cluster import ClusterStatus
from tandem.core.decisions import DecisionFilter, DecisionPage
from tandem.core.errors import FailedPrecondition, TandemError, Unavailable
from tandem.core.ids import Tenant
from tandem.core.inference import DetokenizeRequest, Generation, ModelCard
from tandem.core.traffic import StoredRecord
from tandem.core.watching import ClusterView
from tandem.rpc.channels import client_options, open_channel
from tandem.rpc.errors import rpc_errors
from tandem.rpc.stubs import public
from tandem.rpc.tls import TlsMaterial

In = TypeVar("In")
Out = TypeVar("Out")


class _Channels:
    """The connections of one client, opened with the first call: gRPC ties them to the event loop that runs then."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._open: list[grpc.aio.Channel] = []
        self._turns: Iterator[grpc.aio.Channel] = iter(())
        self._closed = False

    def next(self) -> grpc.aio.Channel:
        if self._closed:
            raise FailedPrecondition("this client is closed", reason="CLIENT_CLOSED")
        if not self._open:
            self._open = [
                open_channel(
                    self._settings.address,
                    tls=self._settings.tls,
                    insecure=self._settings.insecure,
                    options=client_options(max_unread_bytes=self._settings.max_unread_bytes),
                )
                for _ in range(self._settings.num_connections)
            ]
            self._turns = itertools.cycle(self._open)
        return next(self._turns)

    async def close(self) -> None:
        self._closed = True
        channels, self._open = self._open, []
        for channel in channels:
            await channel.close(None)


class AsyncClient:
    """Calls to a Tandem server from one event loop. Close it, or use it as an asynchronous context manager.

    Every method raises the errors of ``tandem.core.errors``, and nothing else on purpose.
    """

    def __init__(
        self,
        address: str,
        *,
        api_key: str | None = None,
        tls: TlsMaterial | None = None,
        insecure: bool = False,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retries: int = DEFAULT_RETRIES,
        num_connections: int = 1,
        max_unread_bytes: int | None = None,
    ) -> None:
        """Make a client for ``host:port``; it connects with the first call.

        Plain text is for loopback; elsewhere give ``tls`` (``TlsMaterial()`` trusts the system's authorities) or say
        ``insecure``. ``timeout_s`` bounds each call with its retries.
        """
        self._settings = Settings(
            address=address,
            api_key=api_key,
            tls=tls,
            insecure=insecure,
            timeout_s=timeout_s,
            retries=retries,
            num_connections=num_connections,
            max_unread_bytes=max_unread_bytes,
        )
        self._budget = RetryBudget()
        self._channels = _Channels(self._settings)

    def with_options(self, *, timeout_s: float | None = None, retries: int | None = None) -> "AsyncClient":
        """Return a client with other options over the same connections; closing either closes both."""
        other = object.__new__(AsyncClient)
        other._settings = replace(
            self._settings,
            timeout_s=self._settings.timeout_s if timeout_s is None else timeout_s,
            retries=self._settings.retries if retries is None else retries,
        )
        other._budget, other._channels = self._budget, self._channels
        return other

    async def generate(
        self,
        prompt: str | None = None,
        *,
        token_ids: Sequence[int] | None = None,
        messages: Sequence[Message] | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Generation:
        """Generate from a text, from tokens or from a conversation, and return the whole answer."""
        return await self._call(public.GENERATE, build_generate(prompt, token_ids, messages, **options))

    def stream(
        self,
        prompt: str | None = None,
        *,
        token_ids: Sequence[int] | None = None,
        messages: Sequence[Message] | None = None,
        **options: Unpack[GenerateOptions],
    ) -> AsyncGenerationStream:
        """Generate and yield the output as it comes; use the result in an ``async with`` statement."""
        data = public.STREAM_GENERATE.encode(build_generate(prompt, token_ids, messages, **options))

        attempts = Attempts(self._settings, self._budget)

        def open_call(timeout_s: float) -> AsyncStreamCall:
            method = self._channels.next().unary_stream(
                public.STREAM_GENERATE.path, request_serializer=None, response_deserializer=None
            )
            call: AsyncStreamCall = method(
                data, timeout=timeout_s, metadata=call_metadata(self._settings, attempt=attempts.num_retries)
            )
            return call

        return AsyncGenerationStream(open_call, attempts)

    async def chat(self, messages: Sequence[Message], **options: Unpack[GenerateOptions]) -> Generation:
        """Generate the next turn of a conversation."""
        return await self.generate(messages=messages, **options)

    async def tokenize(
        self,
        prompt: str | None = None,
        *,
        messages: Sequence[Message] | None = None,
        model: str = "",
        add_special_tokens: bool = True,
        **options: Unpack[ChatOptions],
    ) -> tuple[int, ...]:
        """Return the tokens of a text or a conversation, as ``generate`` would see them."""
        return await self._call(public.TOKENIZE, build_tokenize(prompt, messages, model, add_special_tokens, options))

    async def detokenize(self, token_ids: Sequence[int], *, model: str = "", skip_special_tokens: bool = True) -> str:
        """Return the text of tokens."""
        request = DetokenizeRequest(
            token_ids=checked_token_ids(token_ids), model=model, skip_special_tokens=skip_special_tokens
        )
        return await self._call(public.DETOKENIZE, request)

    async def models(self) -> tuple[ModelCard, ...]:
        """Return the served models."""
        return await self._call(public.LIST_MODELS, None)

    async def status(self) -> ClusterStatus:
        """Return the state of the cluster, from a client of the router's internal address (`tandem status` shows it).

        With keys configured it takes an operator's.
        """
        return await self._call(public.GET_STATUS, None)

    async def flush_prefix_cache(self) -> Flushed:
        """Forget every cached prefix of your tenant, pinned ones included, on all workers.

        What running requests read is let go when they end. With ``num_missed`` workers above 0, ask again.
        """
        return await self._call(public.FLUSH_OWN_CACHE, None)

    async def cache_status(self) -> CacheStatus:
        """Return the numbers of the prefix cache, from a client of the router's internal address.

        With keys configured it takes an operator's.
        """
        return await self._call(public.GET_CACHE_STATUS, None)

    async def flush_cache_of(self, tenant: str | None) -> Flushed:
        """Forget the cached prefixes of any tenant (None = of all), from a client of the router's internal address.

        With keys configured it takes an operator's.
        """
        return await self._call(public.FLUSH_CACHE, None if tenant is None else Tenant(tenant))

    async def apply_policy(self, text: str) -> int:
        """Give the controller an autoscaling policy, as YAML, from a client of the router's internal address.

        Returns its version. The controller checks it again and takes it up with its next round; `tandem policy apply`
        validates first. With keys configured it takes an operator's.
        """
        return await self._call(public.APPLY_POLICY, text)

    async def applied_policy(self) -> StoredRecord | None:
        """Return the policy applied last, with its version; None = there is none. As for `apply_policy`."""
        return await self._call(public.GET_POLICY, None)

    async def decisions(self, wanted: DecisionFilter | None = None) -> DecisionPage:
        """Return what the router decided and why, from a client of its internal address (`tandem decisions` shows it).

        With keys configured it takes an operator's.
        """
        return await self._call(public.LIST_DECISIONS, wanted or DecisionFilter())

    async def explain(self, request_id: str) -> DecisionPage:
        """Return every decision about one request; like ``decisions``. Raises NotFound when none is known."""
        return await self._call(public.EXPLAIN_REQUEST, request_id)

    def follow_decisions(self, wanted: DecisionFilter | None = None) -> AsyncGenerator[DecisionPage, None]:
        """Yield decisions, and new ones as they come, until you leave; no time limit, no retries."""
        return self._follow(public.FOLLOW_DECISIONS, wanted or DecisionFilter())

    def watch(self, interval_s: float = 2.0) -> AsyncGenerator[ClusterView, None]:
        """Yield the cluster as it was lately and is, then again and again; like ``follow_decisions``."""
        return self._follow(public.WATCH_CLUSTER, interval_s)

    async def wait_until_ready(self, timeout_s: float = 60.0) -> None:
        """Return when the server serves requests. Raises Unavailable when it does not within ``timeout_s``."""
        end_s = time.monotonic() + timeout_s
        once = self.with_options(timeout_s=min(timeout_s, 2.0), retries=0)
        last = "it is not ready yet"
        while time.monotonic() < end_s:
            try:
                if await once._call(public.CHECK_SERVING, ""):
                    return
                last = "it is not ready yet"
            except TandemError as error:
                last = error.message
            await asyncio.sleep(min(0.1, max(end_s - time.monotonic(), 0.0)))
        raise Unavailable(
            f"{self._settings.address} did not become ready within {timeout_s:g} s: {last}", reason="NOT_READY"
        )

    async def close(self) -> None:
        """Close the connections; running calls end as cancelled."""
        await self._channels.close()

    async def __aenter__(self) -> "AsyncClient":
        """Return the client itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the client."""
        await self.close()

    async def _call(self, method: public.Method[In, Out], request: In) -> Out:
        data = method.encode(request)
        attempts = Attempts(self._settings, self._budget)
        while True:
            try:
                answer = await self._call_once(self._channels.next(), method, data, attempts)
            except TandemError as error:
                await asyncio.sleep(attempts.pause_after(error))
            else:
                attempts.note_success()
                return answer

    async def _follow(self, method: public.Method[In, Out], request: In) -> AsyncGenerator[Out, None]:
        channel = self._channels.next().unary_stream(method.path, request_serializer=None, response_deserializer=None)
        call = channel(method.encode(request), metadata=call_metadata(self._settings))
        try:
            with rpc_errors():
                async for data in call:
                    yield method.decode(data)
        finally:
            call.cancel()

    async def _call_once(
        self, channel: grpc.aio.Channel, method: public.Method[In, Out], data: bytes, attempts: Attempts
    ) -> Out:
        call = channel.unary_unary(method.path, request_serializer=None, response_deserializer=None)
        timeout_s, metadata = attempts.timeout_s(), call_metadata(self._settings, attempt=attempts.num_retries)
        with rpc_errors():
            answer: bytes = await call(data, timeout=timeout_s, metadata=metadata)
        return method.decode(answer)
