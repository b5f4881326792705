"""What the tagged model computes, as pure functions: tags of prefixes, KV words of tags, logits of tags. No state.

::

    tag(i)    = mix(seed(tenant) + sum over j <= i of mix(token_j, j))     64 bits: hash of tenant, prefix, position
    kv(i)     = (tag(i) xor lane) & FINITE                                 one 64-bit word per lane of the slot
    logits(i) = mix(tag(i) xor word(v)) as a bell-shaped number            for every token v

The sum makes the hash of a prefix extend in one addition, and the tags of a whole prompt one cumulative sum; every
position holds one token, so two prefixes share a sum only by a collision of 64-bit hashes. All arithmetic is modulo
2^64. ``FINITE`` clears the top exponent bit of both float32 halves: no tag ever looks like NaN or infinity, so what is
not finite in a pool was put there by a fault.
"""

import hashlib
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]

FINITE: Final = np.uint64(0xBFFF_FFFF_BFFF_FFFF)
NAN_WORD: Final = np.uint64(0x7FC0_0000_7FC0_0000)
SPREAD: Final = 2.5  # standard deviation of the logits
EOS_LEAD: Final = 2.0  # added to the end token's logit: about one answer in thirty tokens ends by itself
NEVER: Final = -1e9  # logit of a token that is never said

_M1: Final = np.uint64(0xFF51_AFD7_ED55_8CCD)
_M2: Final = np.uint64(0xC4CE_B9FE_1A85_EC53)
_S: Final = np.uint64(33)
_TOKEN: Final = np.uint64(0x9E37_79B9_7F4A_7C15)
_POSITION: Final = np.uint64(0xD1B5_4A32_D192_ED03)


def mix(words: Words) -> Words:
    """Return a permutation of 64-bit words in which every input bit reaches every output bit (MurmurHash3's finisher).

    Source: Austin Appleby, "MurmurHash3", function ``fmix64``.
    """
    words = words ^ (words >> _S)
    words *= _M1
    words ^= words >> _S
    words *= _M2
    words ^= words >> _S
    return words


def tenant_seed(tenant: str) -> np.uint64:
    """Return the tenant's part of every tag."""
    return np.uint64(int.from_bytes(hashlib.blake2b(tenant.encode(), digest_size=8).digest(), "little"))


def contributions(token_ids: Sequence[int] | Words, first_position: int) -> Words:
    """Return what each of these tokens [n], the first at ``first_position``, adds to the sum of its prefix."""
    tokens = np.asarray(token_ids, dtype=np.uint64)
    positions = np.arange(first_position + 1, first_position + 1 + len(tokens), dtype=np.uint64)
    return mix(tokens * _TOKEN + positions * _POSITION)


def tags_of(seed: np.uint64, sums: Words) -> Words:
    """Return the tags of prefixes whose sums are ``sums``."""
    return mix(sums + seed)


def lanes(num_layers: int, words_per_side: int) -> Words:
    """Return the constants [layers, 2 (K, V), 1, words] that make every 64-bit word of a slot its own."""
    count = num_layers * 2 * words_per_side
    numbers = mix(np.arange(1, count + 1, dtype=np.uint64) * _TOKEN)
    return numbers.reshape(num_layers, 2, 1, words_per_side) & FINITE


class NextLogits:
    """From tags to logits, for one vocabulary."""

    def __init__(self, *, vocab_size: int, eos_token_ids: Sequence[int], unsaid_token_ids: Sequence[int]) -> None:
        self._words = mix(np.arange(1, vocab_size + 1, dtype=np.uint64) * _POSITION)
        self._offset = np.zeros(vocab_size, dtype=np.float32)
        self._offset[list(eos_token_ids)] = EOS_LEAD
        self._unsaid = list(unsaid_token_ids)

    def of(self, tags: Words) -> npt.NDArray[np.float32]:
        """Return the logits [R, vocab] after the prefixes with these tags [R]."""
        hashed = mix(tags[:, None] ^ self._words)
        # The sum of four uniform 16-bit numbers is close to a normal one, of mean 0 and this standard deviation.
        quarters = hashed.view(np.int16).reshape(*hashed.shape, 4).sum(axis=2, dtype=np.int32)
        logits: npt.NDArray[np.float32] = quarters.astype(np.float32)
        logits *= np.float32(SPREAD / 37837.0)
        logits += self._offset
        logits[:, self._unsaid] = NEVER
        return logits
