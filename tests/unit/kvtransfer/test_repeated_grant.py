"""A grant that comes twice is taken once: a second Open, or chunks sent twice, would spoil the count."""

import pytest

from tandem.core.blocks import BlockRef
from tandem.kvtransfer.machine import sender_events as tx
from tandem.kvtransfer.machine.sender import HandoverSender, SenderState
from tests.unit.kvtransfer.machine_world import BLOCK_BYTES, KEY, grant_of


@pytest.mark.parametrize("is_offered", [False, True])
@pytest.mark.parametrize("num_blocks", [1, 2])
def test_a_repeated_grant_has_no_effect(is_offered: bool, num_blocks: int) -> None:
    sender = HandoverSender(key=KEY, fingerprint="0" * 64, block_bytes=BLOCK_BYTES, now_s=0.0)
    assert tx.SendOpen() in sender.on_event(0.0, tx.Granted(grant_of(num_blocks)))
    if is_offered:
        sender.on_event(0.0, tx.Offered(0, BlockRef(0, 1)))
    assert sender.on_event(1.0, tx.Granted(grant_of(num_blocks))) == []
    assert sender.state is SenderState.STREAMING
    assert sender.granted_at_s == 0.0
