"""Hand-over between real processes: it works, and a killed, stopped or continued sender does no harm."""

import base64
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandem.core import reasons
from tandem.core.blocks import AttemptKey
from tandem.core.ids import RequestId
from tandem.kvtransfer.grant import TransportName
from tests.fakes.kv_blocks import FakeBlocks
from tests.fakes.kv_pair import KvPair, eventually, kv_pair
from tests.fakes.kv_sender_process import NUM_BLOCKS, fill

KEY = AttemptKey(RequestId("a" * 32), 0)
RETRY = AttemptKey(RequestId("a" * 32), 1)
ROOT = Path(__file__).parents[3]
TRANSPORTS: list[TransportName] = ["shm", "tcp"]


class SenderProcess:
    """The other process."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.fakes.kv_sender_process"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, bufsize=1
        )
        assert self.answer() == "up"

    def answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        while "[" in line:  # a line of the log
            line = self.process.stdout.readline()
        return line.strip()

    def hand_over(self, pair: KvPair, key: AttemptKey, *, num_offered: int, is_sealed: bool) -> None:
        assert self.process.stdin is not None
        grant = base64.b64encode(pair.expect(key, NUM_BLOCKS).to_bytes()).decode()
        self.process.stdin.write(f"grant {grant} {num_offered} {int(is_sealed)}\n")
        self.process.stdin.flush()

    def close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def sender_process() -> Iterator[SenderProcess]:
    sender = SenderProcess()
    try:
        yield sender
    finally:
        sender.close()


def process_state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_between_processes(transport: TransportName) -> None:
    with kv_pair(transports=[transport]) as pair, sender_process() as sender:
        sender.hand_over(pair, KEY, num_offered=NUM_BLOCKS, is_sealed=True)
        pair.received.wait(lambda: KEY in pair.received.ready)
        assert sender.answer() == f"committed {transport}"
        expected = FakeBlocks(NUM_BLOCKS, pair.target.block_bytes)
        fill(expected)
        assert pair.target.data == expected.data


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("num_offered", [0, 1, NUM_BLOCKS])
def test_killed_sender(transport: TransportName, num_offered: int) -> None:
    """Failure modes 3 and 4: kill -9 before, during and after the chunks; a new process then does the retry."""
    shm = sorted(os.listdir("/dev/shm")) if Path("/dev/shm").is_dir() else []
    with kv_pair(transports=[transport]) as pair:
        with sender_process() as sender:
            sender.hand_over(pair, KEY, num_offered=num_offered, is_sealed=False)
            eventually(lambda: pair.receiver.snapshot().num_chunks == num_offered)
            eventually(lambda: any(link.transport for link in tuple(pair.receiver._links)))
            eventually(lambda: pair.receiver._transfers[KEY].link is not None)
            start_s = time.monotonic()
            sender.process.kill()
            pair.received.wait(lambda: KEY in pair.received.failed)
            assert time.monotonic() - start_s < 2
        assert pair.received.failed[KEY] == (reasons.KV_PEER_LOST, True)
        pair.target.free(KEY)
        with sender_process() as sender:
            sender.hand_over(pair, RETRY, num_offered=NUM_BLOCKS, is_sealed=True)
            pair.received.wait(lambda: RETRY in pair.received.ready)
    assert (sorted(os.listdir("/dev/shm")) if Path("/dev/shm").is_dir() else []) == shm


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_stopped_sender_and_its_late_bytes(transport: TransportName) -> None:
    """Failure mode 9: a zombie goes on after D gave up and reused the blocks; not one of its bytes is taken."""
    with kv_pair(transports=[transport]) as pair, sender_process() as sender:
        sender.hand_over(pair, KEY, num_offered=1, is_sealed=False)
        eventually(lambda: pair.receiver.snapshot().num_chunks == 1)
        os.kill(sender.process.pid, signal.SIGSTOP)
        eventually(lambda: process_state(sender.process.pid) == "T")
        pair.received.wait(lambda: KEY in pair.received.failed)
        assert pair.received.failed[KEY] == (reasons.KV_TIMEOUT, True)
        pair.target.free(KEY)
        pair.target.allocate(RETRY, NUM_BLOCKS)
        before = bytes(pair.target.data)
        os.kill(sender.process.pid, signal.SIGCONT)
        assert sender.answer().startswith("failed")
        assert bytes(pair.target.data) == before


def test_killed_receiver_process_side_is_a_lost_link() -> None:
    """The mirror image: the receiver goes, the sender hears of it at once and frees."""
    with kv_pair() as pair:
        pair.fill(KEY, 4)
        pair.sender.grant(pair.expect(KEY, 4))
        pair.sender.offer(KEY, 0, pair.source_refs[KEY][0])
        eventually(lambda: pair.receiver.snapshot().num_chunks == 1)
        start_s = time.monotonic()
        pair.receiver.close()
        pair.sent.wait(lambda: KEY in pair.sent.failed)
        assert time.monotonic() - start_s < 2
        assert pair.sent.failed[KEY] == (reasons.KV_PEER_LOST, True)
