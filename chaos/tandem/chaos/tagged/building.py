"""Builds the engine around the tagged model: all of it the product's, but the forward pass."""

from dataclasses import replace

import torch

from tandem.chaos.tagged.evidence import Evidence, FileEvidence, MemoryEvidence
from tandem.chaos.tagged.model import read_shape
from tandem.chaos.tagged.runner import TaggedRunner
from tandem.chaos.tagged.settings import TaggedCost, TaggedLayout, TaggedWorkerConfig
from tandem.core.clock import Clock
from tandem.core.prepared_model import PreparedModel
from tandem.engine.config import EngineConfig
from tandem.engine.engine import Engine
from tandem.engine.kv.block_cache import CacheSetup
from tandem.engine.kv.pool import KvPool
from tandem.engine.sampling.sampler import Sampler
from tandem.engine.text_output import text_factory
from tandem.text.tokenizer import Tokenizer
from tandem.worker_host.built import BuiltEngine, layout_of, warm_up

_DEFAULT_BLOCKS = 256


class TaggedBuilder:
    """The worker program's engine builder."""

    def __init__(self, *, cost: TaggedCost, evidence: Evidence, layout: TaggedLayout | None = None) -> None:
        self._cost = cost
        self._layout = layout or TaggedLayout()
        self._evidence = evidence

    @classmethod
    def of(cls, config: TaggedWorkerConfig) -> "TaggedBuilder":
        """Return the builder that a worker's configuration asks for."""
        folder = config.evidence_folder
        return cls(
            cost=config.cost,
            layout=config.layout,
            evidence=MemoryEvidence() if folder is None else FileEvidence(folder, config.worker_id),
        )

    def __call__(
        self, prepared: PreparedModel, config: EngineConfig, *, clock: Clock, cache: CacheSetup | None = None
    ) -> BuiltEngine:
        """Build it. Raises ModelError for a folder that holds a real model."""
        torch.set_num_threads(config.num_threads)
        spec = read_shape(prepared).spec(prepared.digest)
        tokenizer = Tokenizer.load(prepared.folder)
        pool = KvPool(
            spec,
            num_blocks=config.num_blocks or _DEFAULT_BLOCKS,
            block_size=config.block_size,
            device="cpu",
            dtype=torch.float32,
        )
        runner = TaggedRunner(spec, pool, cost=self._cost, evidence=self._evidence)
        layout = self._layout.of(layout_of(spec, tokenizer, block_size=config.block_size))
        engine = Engine(
            runner=runner,
            sampler=Sampler(),
            make_text=text_factory(tokenizer),
            config=config,
            eos_token_ids=frozenset(tokenizer.eos_token_ids),
            clock=clock,
            cache=None if cache is None else replace(cache, layout_fingerprint=layout.fingerprint),
        )
        warm_up(engine)
        return BuiltEngine(engine=engine, runner=runner, layout=layout)
