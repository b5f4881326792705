"""The sampler again, slow and obvious: one row at a time, Python numbers, sorted lists."""

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from tandem.core.types import SamplingParams
from tandem.engine.sampling.sampler import SampleRow


def adjusted(logits: npt.NDArray[np.float32], row: SampleRow) -> npt.NDArray[np.float32]:
    """Bias, then penalties, one token after another in fp32."""
    params, one = row.params, np.float32
    result = logits.copy()
    for token_id in range(len(result)):
        value = one(result[token_id])
        value = one(value + one(params.logit_bias.get(token_id, 0.0)))
        count = list(row.output_token_ids).count(token_id)
        if count or (token_id in row.prompt_token_ids):
            penalty = one(params.repetition_penalty)
            value = one(value / penalty) if value > 0 else one(value * penalty)
        if count:
            value = one(value - one(params.presence_penalty + params.frequency_penalty * count))
        result[token_id] = value
    return result


def weights(logits: npt.NDArray[np.float32], temperature: float) -> list[int]:
    """Probabilities scaled so that the best token has the largest power of two that keeps the sum below 2**53."""
    scale = 2 ** (53 - len(logits).bit_length())
    best = max(logits.tolist())
    return [round(math.exp((value - best) / temperature) * scale) for value in logits.tolist()]


def kept(logits: npt.NDArray[np.float32], mass: list[int], params: SamplingParams) -> list[int]:
    """Token ids that top-k, top-p and min-p keep, best first."""
    ranked = sorted(range(len(mass)), key=lambda token_id: (-float(logits[token_id]), token_id))
    if params.top_k:
        ranked = ranked[: params.top_k]
    if params.top_p < 1.0:
        total, needed = 0, Fraction(params.top_p) * sum(mass[token_id] for token_id in ranked)
        nucleus = []
        for token_id in ranked:
            nucleus.append(token_id)
            total += mass[token_id]
            if total >= needed:
                break
        ranked = nucleus
    least = Fraction(params.min_p) * max(mass)
    return [token_id for token_id in ranked if mass[token_id] >= least]


def draw(logits: npt.NDArray[np.float32], params: SamplingParams, uniform: float) -> int:
    """Inverse CDF over the kept tokens in the order of their ids."""
    mass = weights(logits, params.temperature)
    survivors = sorted(kept(logits, mass, params))
    target = math.floor(Fraction(uniform) * sum(mass[token_id] for token_id in survivors))
    total = 0
    for token_id in survivors:
        total += mass[token_id]
        if total > target:
            return token_id
    raise ValueError("the uniform number is not below 1")


def logprobs(logits: npt.NDArray[np.float32]) -> list[float]:
    """Log-softmax in float64."""
    values = logits.astype(np.float64).tolist()
    best = max(values)
    norm = best + math.log(sum(math.exp(value - best) for value in values))
    return [value - norm for value in values]
