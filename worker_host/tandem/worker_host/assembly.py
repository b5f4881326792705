"""Builds an engine from a prepared model folder, and names the layout of its KV."""

from dataclasses import replace

import torch

from tandem.core.clock import Clock
from tandem.core.errors import EnvironmentProblem
from tandem.core.prepared_model import PreparedModel
from tandem.engine.attention.select import select_backend
from tandem.engine.config import EngineConfig
from tandem.engine.engine import Engine
from tandem.engine.kv.block_cache import CacheSetup
from tandem.engine.kv.pool import KvPool
from tandem.engine.loading.model_loader import load_model, read_model_spec, torch_dtype
from tandem.engine.runner import ModelRunner
from tandem.engine.sampling.sampler import Sampler
from tandem.engine.spec import ModelSpec
from tandem.engine.text_output import text_factory
from tandem.text.tokenizer import Tokenizer
from tandem.worker_host.built import BuiltEngine, layout_of, warm_up

_CPU_KV_BYTES = 512 << 20


def resolve_device(name: str) -> str:
    """Return a torch device for a configured name. Raises EnvironmentProblem for a GPU that is not there."""
    if name == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise EnvironmentProblem(
            f"engine.device is {name!r}, and torch sees no CUDA device",
            remedy="set engine.device to auto or cpu, or install a CUDA build of torch",
        )
    index = name.partition(":")[2]
    if index and int(index) >= torch.cuda.device_count():
        raise EnvironmentProblem(
            f"engine.device is {name!r}, and torch sees {torch.cuda.device_count()} CUDA devices, numbered from 0",
            remedy="set engine.device to one of them, or to auto",
        )
    return name


def build_engine(
    prepared: PreparedModel, config: EngineConfig, *, clock: Clock, cache: CacheSetup | None = None
) -> BuiltEngine:
    """Load the model and lay out its KV pool; with ``cache``, full blocks are kept for later prompts. Takes seconds.

    Raises ModelError for a model that can't run, EnvironmentProblem for a device or memory that is not there.
    """
    torch.set_num_threads(config.num_threads)
    device = resolve_device(config.device)
    tokenizer = Tokenizer.load(prepared.folder)
    spec = read_model_spec(prepared, dtype=_dtype(config, device, prepared))
    pool = KvPool(
        spec,
        num_blocks=_num_blocks(spec, config, device),
        block_size=config.block_size,
        device=device,
        dtype=torch_dtype(spec.dtype),
    )
    attention = select_backend(config.attention, device)(pool)
    model = load_model(prepared, device=device, attention=attention, dtype=spec.dtype)
    runner = ModelRunner(model, pool)
    layout = layout_of(spec, tokenizer, block_size=config.block_size)
    engine = Engine(
        runner=runner,
        sampler=Sampler(),
        make_text=text_factory(tokenizer),
        config=config,
        # The tokenizer knows an end token of its own, which the model's configuration may lack.
        eos_token_ids=frozenset(spec.eos_token_ids) | frozenset(tokenizer.eos_token_ids),
        clock=clock,
        cache=None if cache is None else replace(cache, layout_fingerprint=layout.fingerprint),
    )
    warm_up(engine)
    return BuiltEngine(engine=engine, runner=runner, layout=layout)


def _dtype(config: EngineConfig, device: str, prepared: PreparedModel) -> str:
    if config.dtype != "auto":
        return config.dtype
    return "float32" if device == "cpu" else prepared.dtype


def _num_blocks(spec: ModelSpec, config: EngineConfig, device: str) -> int:
    if config.num_blocks is not None:
        return config.num_blocks
    element_bytes = torch_dtype(spec.dtype).itemsize
    block_bytes = len(spec.layers) * 2 * config.block_size * spec.num_kv_heads * spec.head_dim * element_bytes
    if config.kv_memory_bytes is not None:
        total_bytes = config.kv_memory_bytes
    elif device == "cpu":
        total_bytes = _CPU_KV_BYTES
    else:
        free_bytes, _ = torch.cuda.mem_get_info(device)
        total_bytes = int(config.device_memory_fraction * free_bytes)
    num_blocks = total_bytes // block_bytes
    if num_blocks < 1:
        raise EnvironmentProblem(
            f"{total_bytes} bytes of KV memory hold no block of {block_bytes} bytes",
            remedy="raise engine.kv_memory_bytes, or lower engine.block_size",
        )
    return num_blocks
