"""Whole hand-overs through the real services, over both transports."""

import pytest

from tandem.core.ids import RequestId
from tandem.kvtransfer import TransferKey
from tandem.kvtransfer.grant import TransportName
from tests.fakes.kv_pair import kv_pair

KEY = TransferKey(RequestId("a" * 32), 0)
TRANSPORTS: list[TransportName] = ["shm", "tcp"]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_bytes_and_payload_arrive(transport: TransportName) -> None:
    with kv_pair(transports=[transport]) as pair:
        data = pair.fill(KEY, 20)
        grant = pair.expect(KEY, 20)
        pair.sender.grant(grant)
        pair.offer_all(KEY)
        pair.seal(KEY, payload=b"\x01\x02")
        pair.sent.wait(lambda: KEY in pair.sent.committed)
        assert pair.received.ready == {KEY: b"\x01\x02"}
        assert pair.target_bytes(grant) == data
        stats = pair.sent.committed[KEY]
        assert (stats.transport, stats.num_bytes, stats.num_chunks) == (transport, len(data), 20)
