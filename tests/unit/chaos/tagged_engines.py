"""Real engines over the tagged model, in this process."""

from pathlib import Path

import torch

from tandem.chaos.tagged.building import TaggedBuilder
from tandem.chaos.tagged.evidence import MemoryEvidence
from tandem.chaos.tagged.model import TaggedShape, prepare_tagged
from tandem.chaos.tagged.settings import TaggedCost
from tandem.core.clock import MonotonicClock
from tandem.core.ids import RequestId, Tenant
from tandem.core.messages import AttemptFailed
from tandem.core.prepared_model import PreparedModel
from tandem.core.types import GenerationTask, SamplingParams, StopParams
from tandem.engine.config import EngineConfig
from tandem.engine.engine import Engine
from tandem.engine.kv.pool import KvPool


class TaggedStage:
    """One engine and what came out of it."""

    def __init__(self, model: PreparedModel, *, num_blocks: int = 64, block_size: int = 4, **engine: object) -> None:
        self.evidence = MemoryEvidence()
        config = EngineConfig(num_blocks=num_blocks, block_size=block_size, **engine)  # type: ignore[arg-type]
        builder = TaggedBuilder(cost=TaggedCost(), evidence=self.evidence)
        self.engine: Engine = builder(model, config, clock=MonotonicClock()).engine
        self.tokens: dict[tuple[str, int], list[int]] = {}
        self.texts: dict[tuple[str, int], str] = {}
        self.failures: list[AttemptFailed] = []

    def step(self) -> None:
        """Run one step and collect."""
        result = self.engine.step()
        self.failures += [event for event in result.events if isinstance(event, AttemptFailed)]
        for delta in result.tokens:
            child = (delta.request_id, delta.child)
            self.tokens.setdefault(child, []).extend(delta.token_ids)
            self.texts[child] = self.texts.get(child, "") + delta.text

    def run(self) -> None:
        """Step until nothing is left to do."""
        while self.engine.has_work():
            self.step()


def pool_of(shape: TaggedShape, *, num_blocks: int, block_size: int) -> KvPool:
    """Return a pool of the shape."""
    return KvPool(shape.spec("digest"), num_blocks=num_blocks, block_size=block_size, device="cpu", dtype=torch.float32)


def tagged_model(folder: Path, **shape: int) -> PreparedModel:
    """Prepare the model."""
    return prepare_tagged(folder, TaggedShape(**shape))


def tagged_task(
    name: str,
    *,
    prompt: tuple[int, ...] = (10, 20, 30, 40, 50),
    max_tokens: int = 12,
    n: int = 1,
    tenant: str = "local",
    sampling: SamplingParams | None = None,
    stop: StopParams | None = None,
) -> GenerationTask:
    """Return a task."""
    return GenerationTask(
        request_id=RequestId(name),
        attempt=0,
        tenant=Tenant(tenant),
        prompt_token_ids=prompt,
        num_sequences=n,
        sampling=sampling or SamplingParams(),
        stop=stop or StopParams(max_tokens=max_tokens),
    )
