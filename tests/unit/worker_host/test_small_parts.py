"""Inbox, heartbeat, router session, token digest, first tokens, KV memory glue."""

import asyncio
import threading
import time
from collections import deque
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.core.blocks import FirstToken
from tandem.core.errors import KvIntegrity
from tandem.core.ids import LOCAL_TENANT, Epoch, RequestId
from tandem.core.messages import Beat
from tandem.core.types import GenerationTask, Role, SamplingParams, StopParams, WorkerLoad
from tandem.worker_host.first_tokens import decode_first_tokens, encode_first_tokens
from tandem.worker_host.heartbeat import Heartbeat
from tandem.worker_host.inbox import Inbox
from tandem.worker_host.session import RouterSession, SlowRouter
from tandem.worker_host.token_digest import digest_tokens

BEAT = Beat(worker_epoch=Epoch(1), role=Role.DECODE, draining=False, load=WorkerLoad(), step_age_ms=0.0)
TASK = GenerationTask(
    request_id=RequestId("r"),
    attempt=0,
    tenant=LOCAL_TENANT,
    prompt_token_ids=(1, 2, 3),
    num_sequences=1,
    sampling=SamplingParams(),
    stop=StopParams(max_tokens=8),
)


def test_inbox_runs_actions_in_order_and_counts_them() -> None:
    inbox, seen = Inbox(), list[int]()
    for number in range(3):
        inbox.post(lambda n=number: seen.append(n))  # type: ignore[misc]
    assert inbox.run_waiting() == 3
    assert inbox.run_waiting() == 0
    assert seen == [0, 1, 2]


def test_inbox_wait_ends_at_its_time_or_at_the_first_action() -> None:
    inbox = Inbox()
    assert not inbox.wait_and_run(0.01)
    threading.Timer(0.02, lambda: inbox.post(lambda: None)).start()
    assert inbox.wait_and_run(5.0)


def test_heartbeat_beats_while_others_are_busy_and_stops() -> None:
    beats: list[Beat] = []
    heartbeat = Heartbeat(make_beat=lambda: BEAT, broadcast=beats.append, period_s=0.01)
    heartbeat.start()
    deadline = time.monotonic() + 5
    while len(beats) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    heartbeat.stop(5.0)
    counted = len(beats)
    assert counted >= 3
    time.sleep(0.05)
    assert len(beats) == counted


async def test_session_carries_messages_from_any_thread_in_order() -> None:
    session = RouterSession("a", asyncio.get_running_loop())
    beats = [replace(BEAT, worker_epoch=Epoch(i)) for i in range(50)]
    sender = threading.Thread(target=lambda: deque(map(session.send, beats), maxlen=0))
    sender.start()
    got = []
    async with asyncio.timeout(5):
        async for message in session.messages():
            got.append(message)
            if len(got) == len(beats):
                break
    sender.join()
    assert got == beats


async def test_a_router_that_does_not_read_is_cut_off() -> None:
    session = RouterSession("a", asyncio.get_running_loop())
    for _ in range(5000):
        session.send(BEAT)
    await asyncio.sleep(0)
    with pytest.raises(SlowRouter):
        async with asyncio.timeout(5):
            async for _ in session.messages():
                pass


async def test_what_waits_for_a_router_that_never_reads_is_bounded() -> None:
    session = RouterSession("a", asyncio.get_running_loop())
    for _ in range(20_000):
        session.send(BEAT)
    await asyncio.sleep(0)
    with pytest.raises(SlowRouter, match=r"^409\d messages wait"):
        await anext(session.messages())


async def test_an_overrun_is_told_once_and_without_a_reader() -> None:
    told: list[str] = []
    session = RouterSession("a", asyncio.get_running_loop(), on_overrun=lambda: told.append("overrun"))
    for _ in range(4096):
        session.send(BEAT)
    await asyncio.sleep(0)
    assert told == []
    for _ in range(100):
        session.send(BEAT)
    await asyncio.sleep(0)
    assert told == ["overrun"]


async def test_a_router_that_reads_in_time_may_get_any_number() -> None:
    session = RouterSession("a", asyncio.get_running_loop())
    messages = session.messages()
    for _ in range(4):
        for _ in range(2000):
            session.send(BEAT)
        for _ in range(2000):
            assert await anext(messages) == BEAT


async def test_what_was_queued_before_the_end_still_comes() -> None:
    session = RouterSession("a", asyncio.get_running_loop())
    beats = [replace(BEAT, worker_epoch=Epoch(i)) for i in range(3)]
    for beat in beats:
        session.send(beat)
    await asyncio.sleep(0)
    session.end()
    session.end()
    assert [message async for message in session.messages()] == beats


async def test_a_closed_session_takes_nothing() -> None:
    session = RouterSession("a", asyncio.get_running_loop())
    session.close()
    session.send(BEAT)
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            async for _ in session.messages():
                pass


def test_sending_after_the_loop_closed_is_no_error() -> None:
    loop = asyncio.new_event_loop()
    session = RouterSession("a", loop)
    loop.close()
    session.send(BEAT)


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 2**31), st.booleans()), max_size=8))
def test_first_tokens_round_trip(entries: list[tuple[int, int, bool]]) -> None:
    tokens = tuple(FirstToken(child=c, token_id=t, finished=f) for c, t, f in entries)
    assert decode_first_tokens(encode_first_tokens(tokens)) == tokens


@pytest.mark.parametrize("payload", [b"", b"\x00", b"\x93\x01\x02", b"\x91\x92\x00\x01", b"\x91\x93\xa1x\x01\xc3"])
def test_first_tokens_refuse_rubbish(payload: bytes) -> None:
    with pytest.raises(KvIntegrity):
        decode_first_tokens(payload)


@given(st.binary(max_size=64))
def test_first_tokens_never_raise_anything_else(payload: bytes) -> None:
    try:
        decode_first_tokens(payload)
    except KvIntegrity:
        return


def test_token_digest_depends_on_every_token_and_their_order() -> None:
    base = digest_tokens(TASK)
    assert len(base) == 32
    assert digest_tokens(replace(TASK, request_id=RequestId("other"))) == base
    others = [(1, 2, 4), (3, 2, 1), (1, 2), (1, 2, 3, 0)]
    digests = {digest_tokens(replace(TASK, prompt_token_ids=tokens)) for tokens in others}
    assert len(digests | {base}) == 5


def test_token_digest_covers_emitted_tokens() -> None:
    recovered = replace(TASK, emitted=((9,),))
    assert digest_tokens(recovered) == digest_tokens(replace(TASK, prompt_token_ids=(1, 2, 3, 9)))
