"""The transfer that the tests of both machines speak of."""

from tandem.core.blocks import AttemptKey, BlockRef
from tandem.core.ids import RequestId
from tandem.kvtransfer import KvEndpoint, KvGrant

KEY = AttemptKey(RequestId("a" * 32), 0)
TAG = b"t" * 16
BLOCK_BYTES = 10
CHUNK_BYTES = 4  # three chunks a block: 4, 4, 2


def grant_of(num_blocks: int, *, deadline_left_s: float = 100.0) -> KvGrant:
    return KvGrant(
        request_id=KEY.request_id,
        attempt=KEY.attempt,
        layout_fingerprint="0" * 64,
        dst_worker_id="d",
        dst_epoch=7,
        blocks=tuple(BlockRef(10 + index, 3) for index in range(num_blocks)),
        chunk_bytes=CHUNK_BYTES,
        endpoints=(KvEndpoint(transport="tcp", address="x:1", host_id=""),),
        secret=b"s" * 16,
        deadline_left_s=deadline_left_s,
    )
