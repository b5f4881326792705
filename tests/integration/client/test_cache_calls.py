"""Pins, flushes and numbers of the prefix cache through both clients and the command line."""

import json
from collections.abc import Iterator

import pytest

from tandem.client import AsyncClient, CachePin, Client, InvalidArgument
from tandem.cluster.cli.app import main
from tests.fakes.inference_server import RunningServer, fake_inference_server


@pytest.fixture
def server() -> Iterator[RunningServer]:
    with fake_inference_server() as running:
        yield running


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    shown = capsys.readouterr()
    return int(ended.value.code or 0), shown.out + shown.err


def test_blocking(server: RunningServer) -> None:
    with Client(server.address) as client:
        client.generate("a b", cache_pin=CachePin(ttl_s=60.0, num_tokens=1))
        assert server.handler.requests[-1].cache_pin == CachePin(ttl_s=60.0, num_tokens=1)
        flushed = client.flush_prefix_cache()
        assert (flushed.num_blocks, flushed.num_workers, flushed.num_missed) == (7, 2, 1)
        assert client.flush_cache_of("acme").num_blocks == 8
        client.flush_cache_of(None)
        assert server.handler.flushed == ["local", "acme", None]
        assert client.cache_status().workers[1].stats is not None


async def test_asynchronous(server: RunningServer) -> None:
    async with AsyncClient(server.address) as client:
        async with client.stream("a b", cache_pin=CachePin(ttl_s=60.0)) as stream:
            assert [text async for text in stream.texts()]
        assert server.handler.requests[-1].cache_pin == CachePin(ttl_s=60.0)
        await client.chat([{"role": "user", "content": "x"}], cache_pin=CachePin(ttl_s=1.0, num_messages=1))
        assert server.handler.requests[-1].cache_pin == CachePin(ttl_s=1.0, num_messages=1)
        assert (await client.flush_prefix_cache()).num_missed == 1
        assert (await client.flush_cache_of("acme")).num_workers == 2
        assert (await client.cache_status()).index.num_blocks == 8


@pytest.mark.parametrize(
    "pin",
    [{"ttl_s": 1.0}, CachePin(ttl_s=1.0, num_tokens=1, num_messages=1), CachePin(ttl_s=1.0, num_tokens=-1)],
)
def test_a_pin_that_can_not_be_sent_is_refused_here(server: RunningServer, pin: object) -> None:
    with Client(server.address) as client, pytest.raises(InvalidArgument, match="cache_pin"):
        client.generate("a", cache_pin=pin)  # type: ignore[arg-type]


def test_the_command_line_shows_numbers(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
    code, shown = run(capsys, "cache", "stats", "--address", server.address)
    assert code == 0
    lines = shown.splitlines()
    (prefill,) = (line for line in lines if "prefill-0" in line)
    for word in ("8", "6", "2", "60.0%", "600", "3", "0.5 s ago", "4"):
        assert f" {word} " in prefill, prefill
    (decode,) = (line for line in lines if "decode-0" in line)
    assert " no " in decode, "nothing was heard of it"
    assert any("device" in line and "60.0%" in line for line in lines), "the tiers, over all workers"
    code, shown = run(capsys, "cache", "stats", "--address", server.address, "--json")
    assert json.loads(shown)["workers"][1]["stats"]["num_cached_tokens"] == 600


def test_the_command_line_shows_tenants(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
    code, shown = run(capsys, "cache", "top", "--once", "--address", server.address)
    assert code == 0
    (acme,) = (line for line in shown.splitlines() if "acme" in line)
    for word in ("8", "10", "1000", "600", "60.0%"):
        assert f" {word} " in acme, acme


def test_the_command_line_flushes_whom_it_is_told(server: RunningServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "cache", "flush", "--address", server.address)[0] == 1
    assert run(capsys, "cache", "flush", "--all", "--tenant", "acme", "--address", server.address)[0] == 1
    assert server.handler.flushed == []
    code, shown = run(capsys, "cache", "flush", "--tenant", "acme", "--address", server.address)
    assert (code, shown.strip()) == (0, "8 blocks on 2 workers are forgotten")
    assert run(capsys, "cache", "flush", "--all", "--address", server.address)[0] == 0
    assert server.handler.flushed == ["acme", None]
