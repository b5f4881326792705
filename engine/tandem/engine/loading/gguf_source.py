"""Turns a GGUF file into a plain model folder, dequantised, with the reader of ``transformers``."""

import contextlib
import io
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from tandem.core.errors import ModelError
from tandem.engine.loading.progress import Progress


def unpack_gguf(path: Path, folder: Path, progress: Progress) -> None:
    """Write config, float32 weights, tokenizer and chat template of a GGUF file into ``folder``.

    Raises ModelError for a broken file or an architecture that ``transformers`` can't read from GGUF.
    """
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        progress.at("reading the GGUF tokenizer")
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        progress.at("dequantising the GGUF weights")
        # The reader draws a bar of its own on stderr, which no setting turns off.
        with contextlib.redirect_stderr(io.StringIO()):
            model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
                path.parent,
                gguf_file=path.name,
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),
            )
    except Exception as error:
        # Readers of binary formats fail in many ways on a broken file; all mean that it can't be served.
        raise ModelError(
            f"{path.name} can't be read as a model: {error}",
            remedy="use a GGUF file of a decoder-only architecture that transformers supports, or a safetensors model",
        ) from error
    progress.at("dequantising the GGUF weights", 1.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
