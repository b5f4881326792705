"""What the real model answers in one process, whose engine computes each request alone: no hand-over, no cache, no Ray.

A process of its own, so that nothing of the cluster under test and nothing of the harness is in it::

    python -m benchmarks.fault_matrix.ray_reference < REQUESTS > ANSWERS
"""

import asyncio
import sys
from collections.abc import Sequence
from typing import Final

import msgspec

from tandem.chaos.cluster import RequestSpec
from tandem.core.environment import child_environment
from tandem.core.errors import EnvironmentProblem

Answer = dict[int, list[int]]
"""Tokens by sequence."""
_MOST_S: Final = 300.0
_NUM_BLOCKS: Final = 128
_NUM_THREADS: Final = 1


async def reference_answers(specs: Sequence[RequestSpec]) -> dict[str, Answer]:
    """Return the answer of each request by its label. Raises EnvironmentProblem when the process gives none."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.fault_matrix.ray_reference",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=child_environment(num_threads=_NUM_THREADS),
    )
    try:
        async with asyncio.timeout(_MOST_S):
            said, complaint = await process.communicate(msgspec.json.encode(list(specs)))
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode:
        raise EnvironmentProblem(f"the reference process failed: {complaint.decode(errors='replace')[-500:]}")
    return msgspec.json.decode(said, type=dict[str, Answer])


def main() -> None:
    """Answer what stands on standard input."""
    from benchmarks.cluster import prepare_builtin  # noqa: PLC0415  # a model's libraries, here only
    from benchmarks.equality_reference import EngineReference  # noqa: PLC0415
    from tandem.engine.config import EngineConfig  # noqa: PLC0415

    specs = msgspec.json.decode(sys.stdin.buffer.read(), type=list[RequestSpec])
    engine = EngineReference(prepare_builtin(), EngineConfig(num_blocks=_NUM_BLOCKS))
    answers = {spec.label: dict(enumerate(map(list, engine.answer(spec.task())))) for spec in specs}
    sys.stdout.buffer.write(msgspec.json.encode(answers))


if __name__ == "__main__":
    main()
