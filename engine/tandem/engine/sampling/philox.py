"""Philox4x32-10: random numbers as a function of (seed, child, position), with no state to carry or lose.

A sequence that moves to another worker, is recomputed after preemption, or is recovered after a crash draws the very
numbers it would have drawn. The generator runs on the host in integers, so the device has no part in it.

Source: Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3" (SC'11), table 2 and figure 2.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_NUM_ROUNDS = 10
_MULTIPLIER_0 = np.uint64(0xD2511F53)
_MULTIPLIER_1 = np.uint64(0xCD9E8D57)
_WEYL_0 = np.uint64(0x9E3779B9)  # golden ratio
_WEYL_1 = np.uint64(0xBB67AE85)  # sqrt(3) - 1
_LOW_32 = np.uint64(0xFFFFFFFF)
_HIGH = np.uint64(32)
_WORD = 0xFFFFFFFF


def philox4x32(counter: npt.NDArray[np.uint64], key: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return the four output words [4, N] of N counters [4, N] under N keys [2, N].

    All words are 32 bits wide, held in uint64 so that a product of two keeps its upper half.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_NUM_ROUNDS):
        product_0, product_1 = c0 * _MULTIPLIER_0, c2 * _MULTIPLIER_1
        c0, c1, c2, c3 = (
            (product_1 >> _HIGH) ^ c1 ^ k0,
            product_1 & _LOW_32,
            (product_0 >> _HIGH) ^ c3 ^ k1,
            product_0 & _LOW_32,
        )
        k0, k1 = (k0 + _WEYL_0) & _LOW_32, (k1 + _WEYL_1) & _LOW_32
    return np.stack((c0, c1, c2, c3))


def uniforms(seeds: Sequence[int], children: Sequence[int], positions: Sequence[int]) -> npt.NDArray[np.float64]:
    """Return N numbers in [0, 1) with 53 random bits, one per (seed, child, position).

    Seeds have 64 bits; children and positions 32. The counter is (position, child, 0, 0).
    """
    seed_words = np.array([(seed & _WORD, (seed >> 32) & _WORD) for seed in seeds], dtype=np.uint64).reshape(-1, 2)
    counter = np.zeros((4, len(seeds)), dtype=np.uint64)
    counter[0] = positions
    counter[1] = children
    words = philox4x32(counter, seed_words.T)
    bits = (words[0] << np.uint64(21)) | (words[1] >> np.uint64(11))  # 32 + 21 = 53 bits
    numbers: npt.NDArray[np.float64] = bits.astype(np.float64) * 2.0**-53
    return numbers
