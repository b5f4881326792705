"""An engine that is built, and what is known of it. Whoever builds one in another way needs no model loader."""

from dataclasses import dataclass

from tandem.core.errors import ModelError
from tandem.core.ids import LOCAL_TENANT, new_request_id
from tandem.core.messages import AttemptFailed
from tandem.core.types import GenerationTask, SamplingParams, StopParams
from tandem.engine.engine import Engine
from tandem.engine.execution import Runner
from tandem.engine.spec import ModelSpec
from tandem.kvtransfer.layout import KvLayout
from tandem.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltEngine:
    """An engine and what its surroundings need to know about it."""

    engine: Engine
    runner: Runner
    layout: KvLayout


def layout_of(spec: ModelSpec, tokenizer: Tokenizer, *, block_size: int) -> KvLayout:
    """Name the layout of a model's KV: two workers hand KV over only when theirs are equal."""
    return KvLayout(
        model_digest=spec.digest,
        tokenizer_digest=tokenizer.digest,
        dtype=spec.dtype,
        num_layers=len(spec.layers),
        num_kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        block_size=block_size,
        rope_digest=spec.rope_digest,
    )


def warm_up(engine: Engine) -> None:
    """Serve one tiny request: what is built at first use must be built before the worker says that it is ready."""
    task = GenerationTask(
        request_id=new_request_id(),
        attempt=0,
        tenant=LOCAL_TENANT,
        prompt_token_ids=(0, 0),
        num_sequences=1,
        sampling=SamplingParams(temperature=1.0, top_p=0.9, num_logprobs=1),
        stop=StopParams(max_tokens=2, stop=("\n\n",), ignore_eos=True),
    )
    engine.start_local(task)
    while engine.has_work():
        for event in engine.step().events:
            if isinstance(event, AttemptFailed):
                raise ModelError(
                    f"the model failed its first request: {event.reason} {event.message}",
                    remedy="check the model with transformers, and the worker's log",
                )
