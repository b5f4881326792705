"""Records, the choice of a registry, and keeping a worker announced."""

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.cluster.config.model import RegistrySection
from tandem.cluster.registry import announcer
from tandem.cluster.registry.announcer import keep_announced
from tandem.cluster.registry.choice import choose_registry
from tandem.cluster.registry.record import decode_record, encode_record
from tandem.core.ids import Epoch, WorkerId
from tandem.core.types import Role, WorkerInfo

WORKER = WorkerInfo(
    worker_id=WorkerId("decode-0"),
    epoch=Epoch(7),
    role=Role.DECODE,
    address="127.0.0.1:1",
    model="m",
    model_digest="d",
    layout_fingerprint="f",
    block_size=16,
    total_blocks=8,
    max_context_tokens=64,
    max_sequences=4,
    pid=1,
    host="h",
)


@given(
    name=st.text(min_size=1, max_size=40),
    epoch=st.integers(0, 2**63 - 1),
    role=st.sampled_from(Role),
    address=st.text(max_size=60),
    blocks=st.integers(0, 2**40),
)
def test_a_record_comes_back_as_it_was(name: str, epoch: int, role: Role, address: str, blocks: int) -> None:
    info = replace(
        WORKER, worker_id=WorkerId(name), epoch=Epoch(epoch), role=role, address=address, total_blocks=blocks
    )
    assert decode_record(encode_record(info)) == info


@given(st.binary(max_size=200))
def test_rubbish_is_no_record(data: bytes) -> None:
    assert decode_record(data) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"epoch":7', b'"epoch":"7"'),
        (b'"role":"decode"', b'"role":"king"'),
        (b'"pid":1', b'"pid":null'),
        (b'"host":"h"', b'"other":"h"'),
        (b'"host":"h"', b'"host":"\xd6"'),  # not UTF-8, inside an otherwise genuine record
        (b'"worker_id":"decode-0"', b'"worker_id":"\xbc\xff"'),
    ],
)
def test_a_record_of_another_shape_is_none(old: bytes, new: bytes) -> None:
    data = encode_record(WORKER)
    assert old in data
    assert decode_record(data.replace(old, new)) is None


def test_a_huge_record_is_not_even_read() -> None:
    assert decode_record(encode_record(replace(WORKER, host="h" * 20_000))) is None


def test_a_given_redis_comes_first() -> None:
    choice = choose_registry(RegistrySection(redis_url="redis://r:1/0"), workers_are_elsewhere=True)
    assert (choice.url, choice.start_embedded, choice.warning) == ("redis://r:1/0", False, "")


def test_else_an_embedded_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert choose_registry(RegistrySection()).start_embedded


def test_else_the_routers_memory_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    choice = choose_registry(RegistrySection())
    assert (choice.url, choice.start_embedded) == ("", False)
    assert "registry.redis_url" in choice.warning


def test_workers_elsewhere_can_not_use_an_embedded_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert not choose_registry(RegistrySection(), workers_are_elsewhere=True).start_embedded


class Recorder:
    """A registry that writes down what it is asked, and is sometimes away."""

    def __init__(self, *, away_for: int = 0) -> None:
        self.calls: list[str] = []
        self._away_for = away_for

    async def announce(self, info: WorkerInfo, *, ttl_s: float) -> bool:
        """Note it."""
        self.calls.append(f"announce {info.epoch}")
        self._away_for -= 1
        return self._away_for < 0

    async def withdraw(self, worker_id: WorkerId, epoch: Epoch) -> None:
        """Note it."""
        self.calls.append(f"withdraw {worker_id} {epoch}")

    async def close(self) -> None:
        """Note it."""
        self.calls.append("close")


async def test_announced_again_and_again_then_withdrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announcer, "_PERIOD_S", 0.01)
    recorder, stop = Recorder(away_for=2), asyncio.Event()
    task = asyncio.create_task(keep_announced(recorder, lambda: WORKER, stop))
    async with asyncio.timeout(5):
        while recorder.calls.count("announce 7") < 4:
            await asyncio.sleep(0.005)
    stop.set()
    await task
    assert recorder.calls[-2:] == ["withdraw decode-0 7", "close"]


async def test_a_cancelled_announcer_withdraws_too() -> None:
    recorder = Recorder()
    task = asyncio.create_task(keep_announced(recorder, lambda: WORKER, asyncio.Event()))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert recorder.calls == ["announce 7", "withdraw decode-0 7", "close"]


def test_a_renewal_comes_well_before_the_end() -> None:
    assert announcer._PERIOD_S * 3 < announcer.TTL_S
