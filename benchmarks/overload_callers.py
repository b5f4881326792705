"""Callers of the overload benchmark: Poisson arrivals, answers of exponential length, patience and retries. One asks,
waits, gives up, asks again; what each attempt came to is recorded."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import grpc
import grpc.aio

from tandem.client.metadata import call_metadata
from tandem.client.requests import build_generate
from tandem.client.retry import RetryBudget, next_retry
from tandem.client.settings import Settings
from tandem.core.errors import Cancelled, Overloaded, QuotaExceeded, TandemError
from tandem.core.inference import OutputDelta, StreamCompleted
from tandem.rpc.channels import open_channel
from tandem.rpc.errors import error_from_rpc
from tandem.rpc.stubs import public

FIRST_PLAIN, LAST_PLAIN = 4, 313
VOCABULARY = LAST_PLAIN - FIRST_PLAIN + 1
NUM_CHANNELS = 8
_ANY_NUMBER = 1000
_GATHER_S = 1.0  # until all callers of a closed loop are there


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """What makes an answer good: whole, and as fast as this. ``token_s`` is the mean gap after the first token."""

    ttft_s: float = 3.0
    token_s: float = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Of one kind of request. Answers are exponential in length, because that is what defeats guessing."""

    prompt_tokens: tuple[int, int] = (100, 300)
    mean_tokens: float = 20.0
    most_tokens: int = 60
    patience_s: float = 15.0  # from the first attempt to the end of the answer
    first_token_patience_s: float = 6.0  # of one attempt
    most_attempts: int = 4
    rude_share: float = 0.3  # of callers, who come back at once whatever they are told


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One call. ``refused_s`` is how long a refusal took."""

    began_s: float
    refused_s: float | None = None
    is_shed: bool = False  # refused for load or by a limit: it has to say when to come back, or to stay away
    is_told: bool = False  # … and it did
    reason: str = ""
    first_token_s: float | None = None
    last_token_s: float | None = None
    num_tokens: int = 0
    is_whole: bool = False


@dataclass(slots=True, kw_only=True)
class Caller:
    """One who wants one answer."""

    tenant: str
    arrived_s: float
    num_prompt_tokens: int
    is_rude: bool
    most_attempts: int
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def is_served(self) -> bool:
        """Whether the whole answer came."""
        return any(attempt.is_whole for attempt in self.attempts)

    def is_good(self, slo: Slo) -> bool:
        """Whether the attempt that was served met the SLO."""
        return self.good_at_s(slo) is not None

    def good_at_s(self, slo: Slo) -> float | None:
        """When its good answer was over; None without one."""
        return next((a.last_token_s for a in self.attempts if _is_good(a, slo)), None)

    def outcome(self, slo: Slo) -> str:
        """Whether it is good; else why its last attempt was not."""
        if self.is_good(slo):
            return "good"
        last = self.attempts[-1] if self.attempts else None
        if last is None or last.first_token_s is None or not last.is_whole:
            return (last.reason if last else "") or "none"
        return "late first token" if last.first_token_s - last.began_s > slo.ttft_s else "slow tokens"

    @property
    def cost_tokens(self) -> float:
        """What its answer was worth, in the router's unit; 0 without one."""
        return sum(self.num_prompt_tokens + 2.0 * attempt.num_tokens for attempt in self.attempts if attempt.is_whole)


def _is_good(attempt: Attempt, slo: Slo) -> bool:
    if not attempt.is_whole or attempt.first_token_s is None or attempt.last_token_s is None:
        return False
    token_s = (attempt.last_token_s - attempt.first_token_s) / max(attempt.num_tokens - 1, 1)
    return attempt.first_token_s - attempt.began_s <= slo.ttft_s and token_s <= slo.token_s


class Callers:
    """All callers of one tenant. Retries follow the SDK's policy, but for the rude ones."""

    def __init__(self, tenant: str, settings: Settings, shape: Shape, *, seed: int) -> None:
        self.tenant = tenant
        self.callers: list[Caller] = []
        self._settings = settings
        self._shape = shape
        self._dice = random.Random(seed)
        self._budget = RetryBudget()
        self._channels: list[grpc.aio.Channel] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator["Callers"]:
        """Keep the connections open; at the end every caller is sent home."""
        async with contextlib.AsyncExitStack() as stack:
            address = self._settings.address
            self._channels = [await stack.enter_async_context(open_channel(address)) for _ in range(NUM_CHANNELS)]
            try:
                yield self
            finally:
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)

    async def arrive(self, *, per_s: float, seconds: float) -> Sequence[Caller]:
        """Poisson arrivals for so long, whatever becomes of them. Returns those that came."""
        first = len(self.callers)
        end_s = time.monotonic() + seconds
        next_s = time.monotonic() + self._dice.expovariate(per_s)
        while next_s < end_s:
            await asyncio.sleep(max(0.0, next_s - time.monotonic()))
            self._begin(next_s)
            next_s += self._dice.expovariate(per_s)
        await asyncio.sleep(max(0.0, end_s - time.monotonic()))
        return self.callers[first:]

    async def saturate(self, *, num_callers: int, seconds: float) -> Sequence[Caller]:
        """So many at a time, each followed by another: what the cluster can do at most. Nobody gives up asking.

        When the time is over, everybody is sent home.
        """
        first = len(self.callers)
        end_s = time.monotonic() + seconds

        async def one_after_another(index: int) -> None:
            await asyncio.sleep(_GATHER_S * index / num_callers)  # not all in one moment, which no phase does
            while time.monotonic() < end_s:
                caller = self._new(time.monotonic())
                caller.is_rude, caller.most_attempts = True, _ANY_NUMBER
                await self._live(caller)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
                for index in range(num_callers):
                    group.create_task(one_after_another(index))
        return self.callers[first:]

    async def left(self) -> None:
        """Wait until everybody has gone."""
        await asyncio.gather(*self._tasks)

    def _begin(self, arrived_s: float) -> None:
        task = asyncio.get_running_loop().create_task(self._live(self._new(arrived_s)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _new(self, arrived_s: float) -> Caller:
        dice, shape = self._dice, self._shape
        caller = Caller(
            tenant=self.tenant,
            arrived_s=arrived_s,
            num_prompt_tokens=dice.randint(*shape.prompt_tokens),
            is_rude=dice.random() < shape.rude_share,
            most_attempts=shape.most_attempts,
        )
        self.callers.append(caller)
        return caller

    async def _live(self, caller: Caller) -> None:
        shape, dice = self._shape, self._dice
        prompt = tuple(dice.randint(FIRST_PLAIN, LAST_PLAIN) for _ in range(caller.num_prompt_tokens))
        # Nobody knows how long an answer will be: it ends with the first of some tokens that the model says.
        ends = dice.sample(range(FIRST_PLAIN, LAST_PLAIN), round(VOCABULARY / shape.mean_tokens))
        request = build_generate(
            None, prompt, None, max_tokens=shape.most_tokens, ignore_eos=True, stop_token_ids=tuple(ends)
        )
        data = public.STREAM_GENERATE.encode(request)
        while True:
            left_s = caller.arrived_s + shape.patience_s - time.monotonic()
            if left_s <= 0.0:
                return
            number = len(caller.attempts)
            attempt = Attempt(began_s=time.monotonic())
            caller.attempts.append(attempt)
            try:
                async with asyncio.timeout(left_s):
                    await self._ask(caller, attempt, data, number=number, left_s=left_s)
            except TimeoutError:
                attempt.reason = attempt.reason or "GAVE_UP"
            except TandemError as error:
                pause_s = self._pause_s(caller, attempt, error, number=number, left_s=left_s)
                if pause_s is None:
                    return
                await asyncio.sleep(pause_s)
                continue
            if attempt.is_whole:
                self._budget.note_success()
                return
            if not caller.is_rude or len(caller.attempts) >= caller.most_attempts:
                return

    def _pause_s(
        self, caller: Caller, attempt: Attempt, error: TandemError, *, number: int, left_s: float
    ) -> float | None:
        attempt.reason = error.reason
        if attempt.first_token_s is None and not isinstance(error, Cancelled):
            attempt.refused_s = time.monotonic() - attempt.began_s
            attempt.is_shed = isinstance(error, Overloaded | QuotaExceeded)
            attempt.is_told = error.retry_after_s is not None or error.metadata.get("pushback") == "-1"
        if caller.is_rude:
            return 0.1 + 0.4 * self._dice.random() if number + 1 < caller.most_attempts else None
        retry = next_retry(
            error,
            num_retries_done=number,
            max_retries=caller.most_attempts - 1,
            left_s=left_s,
            budget=self._budget,
            jitter=self._dice.random(),
        )
        return None if retry is None else retry.delay_s

    async def _ask(self, caller: Caller, attempt: Attempt, data: bytes, *, number: int, left_s: float) -> None:
        """One call: ends when the answer is long enough, when it fails, or when the first token takes too long."""
        channel = self._channels[len(self.callers) % NUM_CHANNELS]
        method = channel.unary_stream(public.STREAM_GENERATE.path, request_serializer=None, response_deserializer=None)
        metadata = call_metadata(self._settings, attempt=0 if caller.is_rude else number)
        call = method(data, timeout=left_s, metadata=metadata)
        try:
            async with asyncio.timeout(self._shape.first_token_patience_s) as patience:
                async for message in call:
                    if self._take(caller, attempt, public.STREAM_GENERATE.decode(message)):
                        return
                    if attempt.first_token_s is not None and patience.when() is not None:
                        patience.reschedule(None)
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error
        finally:
            call.cancel()

    @staticmethod
    def _take(caller: Caller, attempt: Attempt, event: object) -> bool:
        if isinstance(event, OutputDelta) and event.token_ids:
            now_s = time.monotonic()
            attempt.first_token_s = attempt.first_token_s or now_s
            attempt.last_token_s = now_s
            attempt.num_tokens += len(event.token_ids)
        if isinstance(event, StreamCompleted):
            attempt.is_whole = True
        return attempt.is_whole
