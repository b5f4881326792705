"""Would a decode worker gain by taking back blocks from its own host tier, rather than having them handed over?

The parts of a promotion, each over the same blocks of the size of the built-in model's (16 tokens, 720 KiB):

- ``open_ms``: look up and verify in host memory (a keyed digest over the block), in the tiers' thread;
- ``enter_ms``: copy into the KV pool and look for what is not finite, in the engine's thread: decoding waits for it;
- ``promotion_gb_s``: both, one after the other.

Against it stands the hand-over of the same blocks, ``shm_gb_s`` and ``tcp_gb_s`` of ``benchmarks.kvtransfer``: receiver
threads of its own, no time of the engine's thread. Medians over blocks that no cache of the processor holds any more.

Run: ``python -m benchmarks.tier_promotion --json [--quick]``.
"""

import hashlib
import json
import statistics
import time
from pathlib import Path
from typing import Final

import torch

from benchmarks.report import finish, parse
from tandem.core.ids import LOCAL_TENANT
from tandem.engine.kv.pool import KvPool
from tandem.engine.spec import LayerSpec, ModelSpec
from tandem.prefix_cache.keys import BlockKey
from tandem.prefix_cache.remote.envelope import BlockEnvelope
from tandem.prefix_cache.tiers.host import HostBlocks

LAYER: Final = LayerSpec(index=0, num_heads=9, num_kv_heads=3, head_dim=64, scale=0.125)
SPEC: Final = ModelSpec(
    architecture="llama",
    digest="",
    dtype="float32",
    vocab_size=49_152,
    max_context_tokens=8192,
    layers=(LAYER,) * 30,
    num_kv_heads=3,
    head_dim=64,
    rope_digest="",
)
HANDOVER: Final = Path(__file__).parent / "results" / "kvtransfer.json"


def main() -> None:
    """Measure and print."""
    options = parse(__doc__, "quick")
    num_blocks, num_rounds = (16, 2) if options.quick else (128, 8)
    torch.set_num_threads(1)
    pool = KvPool(SPEC, num_blocks=num_blocks, block_size=16, device="cpu", dtype=torch.float32)
    pool.data.normal_()
    block_bytes = pool.block_bytes
    host = HostBlocks(
        BlockEnvelope(b"s" * 32, layout_fingerprint=hashlib.sha256(b"layout").hexdigest()),
        capacity_bytes=2 * num_blocks * block_bytes,
    )
    names = [BlockKey(hashlib.sha256(number.to_bytes(4, "big")).digest()) for number in range(num_blocks)]
    for number, name in enumerate(names):
        host.put(name, LOCAL_TENANT, pool.save(number), host.fence(LOCAL_TENANT))
    open_s, enter_s = [], []
    for _ in range(num_rounds):
        for number, name in enumerate(names):
            began_s = time.perf_counter()
            found = host.get(name)
            opened_s = time.perf_counter()
            if found is None:
                raise RuntimeError("a block is gone")
            pool.restore(number, found)
            if not pool.is_finite([number]):
                raise RuntimeError("a block is not finite")
            enter_s.append(time.perf_counter() - opened_s)
            open_s.append(opened_s - began_s)
    open_ms, enter_ms = 1e3 * statistics.median(open_s), 1e3 * statistics.median(enter_s)
    handover = json.loads(HANDOVER.read_text())["result"]
    result = {
        "open_ms": round(open_ms, 3),
        "enter_ms": round(enter_ms, 3),
        "promotion_gb_s": round(block_bytes / (1e6 * (open_ms + enter_ms)), 3),
        "shm_gb_s": handover["shm_gb_s"],
        "tcp_gb_s": handover["tcp_gb_s"],
    }
    details = {"block_bytes": block_bytes, "num_blocks": num_blocks, "num_rounds": num_rounds}
    finish(options, result, method=__doc__ or "", details=details)


if __name__ == "__main__":
    main()
