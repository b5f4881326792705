"""The two references: `transformers` `generate` for greedy answers, our engine alone for sampled ones."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from tandem.core.clock import MonotonicClock
from tandem.core.ids import RequestId
from tandem.core.prepared_model import PreparedModel
from tandem.core.types import GenerationTask
from tandem.engine.config import EngineConfig
from tandem.worker_host.assembly import build_engine


class TransformersReference:
    """Greedy answers of the upstream implementation, float32, one prompt at a time."""

    def __init__(self, folder: Path) -> None:
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        self._model.train(False)

    def answer(self, task: GenerationTask) -> list[tuple[int, ...]]:
        """Return the tokens of each sequence; greedy ones are all equal."""
        prompt = torch.tensor([task.prompt_token_ids])
        with torch.inference_mode():
            whole = self._model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=task.stop.max_tokens,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
            )
        tokens = tuple(whole[0, prompt.shape[1] :].tolist())
        return [tokens] * task.num_sequences


class EngineReference:
    """Answers of one engine that prefills and decodes by itself, one request at a time."""

    def __init__(self, prepared: PreparedModel, config: EngineConfig) -> None:
        self._engine = build_engine(prepared, config, clock=MonotonicClock()).engine

    def answer(self, task: GenerationTask) -> list[tuple[int, ...]]:
        """Return the tokens of each sequence."""
        outputs: dict[int, list[int]] = {child: [] for child in range(task.num_sequences)}
        self._engine.start_local(task)
        while self._engine.has_work():
            for delta in self._engine.step().tokens:
                if delta.request_id == RequestId(task.request_id):
                    outputs[delta.child].extend(delta.token_ids)
        return [tuple(outputs[child]) for child in range(task.num_sequences)]
