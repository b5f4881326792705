"""Callers that go on and on; what they get is compared with `transformers` on the same weights."""

import itertools
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import torch
from transformers import AutoModelForCausalLM

from tandem.client import Client
from tandem.core.errors import TandemError
from tandem.core.prepared_model import PreparedModel

_NUM_CALLERS = 3
_NUM_TOKENS = 24


class ReferenceTraffic:
    """Three callers of several prompts, each without a retry: what fails once is lost. Use as a context manager."""

    def __init__(self, address: str, model: PreparedModel, *, pause_s: float = 0.0) -> None:
        """``pause_s`` lies between two calls of a caller."""
        dice = random.Random(7)
        self._prompts = [tuple(dice.randint(4, 250) for _ in range(length)) for length in (6, 19, 33, 50)]
        self._expected = [_expected(model, prompt) for prompt in self._prompts]
        self._address = address
        self._pause_s = pause_s
        self._ended = threading.Event()
        self.num_right = 0
        self.wrong: list[str] = []

    def __enter__(self) -> Self:
        self._pool = ThreadPoolExecutor(max_workers=_NUM_CALLERS)
        self._callers = [self._pool.submit(self._call, first) for first in range(_NUM_CALLERS)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._pool.shutdown()
        for caller in self._callers:
            caller.result()

    def _call(self, first: int) -> None:
        with Client(self._address, retries=0, timeout_s=40.0) as client:
            for number in itertools.count(first):
                if self._ended.wait(self._pause_s):
                    return
                index = number % len(self._prompts)
                try:
                    done = client.generate(
                        token_ids=self._prompts[index], max_tokens=_NUM_TOKENS, temperature=0.0, ignore_eos=True
                    )
                except TandemError as error:
                    self.wrong.append(f"{type(error).__name__}: {error}")
                    continue
                if done.sequences[0].token_ids == self._expected[index]:
                    self.num_right += 1
                else:
                    self.wrong.append(f"prompt {index}: {done.sequences[0].token_ids}")


def _expected(model: PreparedModel, prompt: tuple[int, ...]) -> tuple[int, ...]:
    network: Any = AutoModelForCausalLM.from_pretrained(model.folder, dtype=torch.float32)
    with torch.inference_mode():
        tokens = network.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt)),
            do_sample=False,
            max_new_tokens=_NUM_TOKENS,
            min_new_tokens=_NUM_TOKENS,
            eos_token_id=None,
            pad_token_id=0,
        )
    return tuple(tokens[0, len(prompt) :].tolist())
