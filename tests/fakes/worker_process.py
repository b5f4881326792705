"""Fake workers in a process of their own: prints their registrations as one JSON line, then serves until its standard
input closes. A line like ``{"step_s": 0.01}`` on standard input changes the pace of the decode workers.

``python -m tests.fakes.worker_process '{"workers": [{"name": "decode-0", "role": "decode", "step_s": 0.02}, …]}'``
"""

import asyncio
import gc
import json
import sys
from dataclasses import asdict
from typing import Any

from tandem.core.ids import Epoch, WorkerId
from tandem.core.types import Role, WorkerInfo
from tests.fakes.fake_worker import FakeWorker, Pace, emission_time, text_at


def info_from_json(data: dict[str, Any]) -> WorkerInfo:
    """The registration a process printed."""
    return WorkerInfo(
        **{
            **data,
            "worker_id": WorkerId(data["worker_id"]),
            "epoch": Epoch(data["epoch"]),
            "role": Role(data["role"]),
        }
    )


async def serve(plan: dict[str, Any]) -> None:
    """Start the workers of ``plan`` and serve."""
    text = emission_time if plan.get("emission_times") else text_at
    workers = [
        FakeWorker(
            name=entry["name"],
            role=Role(entry["role"]),
            pace=Pace(**{key: value for key, value in entry.items() if key not in ("name", "role")}),
            text=text,
        )
        for entry in plan["workers"]
    ]
    infos = [asdict(await worker.start()) for worker in workers]
    print(json.dumps(infos), flush=True)
    gc.collect()
    gc.freeze()
    while line := await asyncio.to_thread(sys.stdin.readline):
        step_s = json.loads(line)["step_s"]
        decodes = [worker for worker in workers if worker.role is Role.DECODE]
        for index, worker in enumerate(decodes):
            worker.pace.step_s = step_s
            worker.pace.phase_s = step_s * index / len(decodes)
        print(json.dumps({"step_s": step_s}), flush=True)
    for worker in workers:
        await worker.stop()


if __name__ == "__main__":
    asyncio.run(serve(json.loads(sys.argv[1])))
