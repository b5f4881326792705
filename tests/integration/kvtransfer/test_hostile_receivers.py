"""What a broken, slow or lying receiver can do to a sender: make it wait a bounded time, and nothing else."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from tandem.core import reasons
from tandem.core.blocks import AttemptKey
from tandem.core.ids import RequestId
from tandem.kvtransfer import KvEndpoint
from tandem.kvtransfer.codec import encode, encode_chunk
from tandem.kvtransfer.frames import Chunk, Commit, HelloAck, HelloStatus, SlotsFreed
from tandem.kvtransfer.host import host_id
from tandem.kvtransfer.machine.sender import CREDIT_WINDOW_CHUNKS
from tests.fakes.kv_pair import KvPair, eventually, kv_pair

KEY = AttemptKey(RequestId("a" * 32), 0)
SRC_EPOCH = 11
DST_EPOCH = 22
Behaviour = Callable[[socket.socket], None]
WELCOME = encode(HelloAck(HelloStatus.WELCOME, DST_EPOCH, 0, 0, "fake"))


@contextlib.contextmanager
def fake_receiver(behaviour: Behaviour, *, local: bool = False) -> Iterator[KvEndpoint]:
    """Listen, and treat the first connection as told."""
    listener = socket.socket(socket.AF_UNIX if local else socket.AF_INET)
    name = f"tandem-test-{os.getpid()}-{time.monotonic_ns()}"
    listener.bind("\0" + name if local else ("127.0.0.1", 0))
    listener.listen()

    def serve() -> None:
        with contextlib.suppress(OSError):
            sock, _ = listener.accept()
            with sock:
                behaviour(sock)

    thread = threading.Thread(target=serve)
    thread.start()
    if local:
        endpoint = KvEndpoint(transport="shm", address=name, host_id=host_id())
    else:
        endpoint = KvEndpoint(transport="tcp", address=f"127.0.0.1:{listener.getsockname()[1]}", host_id="")
    try:
        yield endpoint
    finally:
        listener.close()
        thread.join()


def start(pair: KvPair, endpoint: KvEndpoint, *, num_blocks: int = 4) -> None:
    pair.fill(KEY, num_blocks)
    pair.sender.grant(replace(pair.expect(KEY, num_blocks), endpoints=(endpoint,)))
    pair.offer_all(KEY)
    pair.seal(KEY)


def read_until_closed(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while sock.recv(1 << 20):
            pass


def no_answer(sock: socket.socket) -> None:
    read_until_closed(sock)


def closes(sock: socket.socket) -> None:
    sock.recv(10)


def answers_garbage(sock: socket.socket) -> None:
    sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(200))
    read_until_closed(sock)


def garbage_later(sock: socket.socket) -> None:
    sock.sendall(WELCOME + os.urandom(300))
    read_until_closed(sock)


def frees_slots_it_never_had(sock: socket.socket) -> None:
    sock.sendall(WELCOME + encode(SlotsFreed(5)))
    read_until_closed(sock)


def sends_chunks_back(sock: socket.socket) -> None:
    head = encode_chunk(Chunk(b"t" * 16, SRC_EPOCH, 0, 0, 1, 0, 10, b"", None), digest=bytes(16), slot=None)
    sock.sendall(WELCOME + head + bytes(10))
    read_until_closed(sock)


@pytest.mark.parametrize(
    "behaviour", [no_answer, closes, answers_garbage, garbage_later, frees_slots_it_never_had, sends_chunks_back]
)
def test_broken_receivers_end_the_transfer(behaviour: Behaviour) -> None:
    with kv_pair(num_blocks=4) as pair, fake_receiver(behaviour) as endpoint:
        before = bytes(pair.source.data)
        start_s = time.monotonic()
        start(pair, endpoint)
        before = bytes(pair.source.data)
        pair.sent.wait(lambda: KEY in pair.sent.failed)
        reason, is_retryable = pair.sent.failed[KEY]
        assert is_retryable
        # Without an answer the hand-shake's 6 s and the transfer's idle 6 s end together: either may be first.
        assert reason == reasons.KV_PEER_LOST or (behaviour is no_answer and reason == reasons.KV_TIMEOUT)
        assert time.monotonic() - start_s < 10
        pair.source.free(KEY)
        assert pair.source.num_free() == 4
        assert bytes(pair.source.data) == before
        eventually(lambda: not [t for t in threading.enumerate() if t.name == "kv-send"])


def reads_nothing(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.sendall(WELCOME)
    time.sleep(8.5)


def test_receiver_that_stands_still_is_given_up() -> None:
    """No credit, no progress: the idle time ends it, and the source blocks are let go."""
    with kv_pair(num_blocks=32) as pair, fake_receiver(reads_nothing) as endpoint:
        start(pair, endpoint, num_blocks=32)
        pair.sent.wait(lambda: KEY in pair.sent.failed)
        assert pair.sent.failed[KEY][0] in (reasons.KV_TIMEOUT, reasons.KV_PEER_LOST)
        assert pair.sender.snapshot().num_chunks <= CREDIT_WINDOW_CHUNKS
        pair.source.free(KEY)
        eventually(lambda: pair.source.num_free() == 32)


def test_nobody_listens() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        endpoint = KvEndpoint(transport="tcp", address=f"127.0.0.1:{sock.getsockname()[1]}", host_id="")
        with kv_pair(num_blocks=4) as pair:
            start(pair, endpoint)
            pair.sent.wait(lambda: KEY in pair.sent.failed)
            assert pair.sent.failed[KEY] == (reasons.KV_PEER_LOST, True)


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:0", "127.0.0.1:99999", ":1", "127.0.0.1:x"])
def test_bad_addresses_fail_the_transfer_only(address: str) -> None:
    with kv_pair(num_blocks=4) as pair:
        start(pair, KvEndpoint(transport="tcp", address=address, host_id=""))
        pair.sent.wait(lambda: KEY in pair.sent.failed)
        assert pair.sent.failed[KEY] == (reasons.KV_PEER_LOST, True)


def test_commit_without_all_the_bytes_is_not_believed() -> None:
    """A receiver can't make P free its blocks before they were sealed."""

    def commits_at_once(sock: socket.socket) -> None:
        data = sock.recv(1 << 16)
        sock.sendall(WELCOME)
        while len(data) < 4096:
            data += sock.recv(1 << 16)
        tag = data[data.index(b"TKV1", 10) + 20 :][:16]
        sock.sendall(encode(Commit(tag, SRC_EPOCH, "")))
        time.sleep(0.5)

    with kv_pair(num_blocks=4) as pair, fake_receiver(commits_at_once) as endpoint:
        pair.fill(KEY, 4)
        pair.sender.grant(replace(pair.expect(KEY, 4), endpoints=(endpoint,)))
        pair.sender.offer(KEY, 0, pair.source_refs[KEY][0])
        pair.sent.wait(lambda: KEY in pair.sent.failed)
        assert pair.sent.committed == {}


def unsealed_ring(sock: socket.socket) -> None:
    """Passes a memory file that it could shrink under the sender (SIGBUS)."""
    fd = os.memfd_create("x")
    os.ftruncate(fd, 16 << 20)
    socket.send_fds(sock, [encode(HelloAck(HelloStatus.WELCOME, DST_EPOCH, 16, 1 << 20, "fake"))], [fd])
    os.close(fd)
    read_until_closed(sock)


def lies_about_the_ring(sock: socket.socket) -> None:
    fd = os.memfd_create("x", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 4096)
    socket.send_fds(sock, [encode(HelloAck(HelloStatus.WELCOME, DST_EPOCH, 16, 1 << 20, "fake"))], [fd])
    os.close(fd)
    read_until_closed(sock)


def no_ring(sock: socket.socket) -> None:
    sock.sendall(encode(HelloAck(HelloStatus.WELCOME, DST_EPOCH, 16, 1 << 20, "fake")))
    read_until_closed(sock)


@pytest.mark.parametrize("behaviour", [unsealed_ring, lies_about_the_ring, no_ring, answers_garbage, closes])
def test_bad_staging_rings_are_refused(behaviour: Behaviour) -> None:
    fds = len(os.listdir("/proc/self/fd"))
    with kv_pair(num_blocks=4) as pair, fake_receiver(behaviour, local=True) as endpoint:
        start(pair, endpoint)
        pair.sent.wait(lambda: KEY in pair.sent.failed)
        assert pair.sent.failed[KEY] == (reasons.KV_PEER_LOST, True)
    eventually(lambda: len(os.listdir("/proc/self/fd")) == fds)
