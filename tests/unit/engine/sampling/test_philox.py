"""The generator against the published known answers, and as independent streams."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.engine.sampling.philox import philox4x32, uniforms

# Known-answer vectors of the authors' Random123 library, philox4x32 with 10 rounds: counter, key, answer.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def column(words: tuple[int, ...]) -> npt.NDArray[np.uint64]:
    return np.array(words, dtype=np.uint64).reshape(-1, 1)


def scalar_philox(counter: list[int], key: list[int]) -> list[int]:
    """The same algorithm in Python integers, word by word."""
    mask = 0xFFFFFFFF
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & mask, (p0 >> 32) ^ c[3] ^ k[1], p0 & mask]
        k = [(k[0] + 0x9E3779B9) & mask, (k[1] + 0xBB67AE85) & mask]
    return c


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_known_answers(counter: tuple[int, ...], key: tuple[int, ...], answer: tuple[int, ...]) -> None:
    assert tuple(philox4x32(column(counter), column(key))[:, 0].tolist()) == answer


def test_vectorised_lanes_do_not_mix() -> None:
    counters = np.concatenate([column(counter) for counter, _, _ in KNOWN_ANSWERS], axis=1)
    keys = np.concatenate([column(key) for _, key, _ in KNOWN_ANSWERS], axis=1)
    assert philox4x32(counters, keys).T.tolist() == [list(answer) for _, _, answer in KNOWN_ANSWERS]


@given(st.lists(st.integers(0, 2**32 - 1), min_size=6, max_size=6))
def test_matches_python_integers(words: list[int]) -> None:
    counter, key = words[:4], words[4:]
    assert philox4x32(column(tuple(counter)), column(tuple(key)))[:, 0].tolist() == scalar_philox(counter, key)


def test_uniform_is_the_top_53_bits_of_the_first_two_words() -> None:
    seed, child, position = 0x299F31D0A4093822, 3, 17
    words = scalar_philox([position, child, 0, 0], [0xA4093822, 0x299F31D0])
    assert uniforms([seed], [child], [position])[0] == (((words[0] << 32) | words[1]) >> 11) / 2**53


def test_uniform_bounds_and_shape() -> None:
    numbers = uniforms([2**64 - 1] * 5000, [0] * 5000, range(5000))
    assert numbers.shape == (5000,)
    assert numbers.dtype == np.float64
    assert 0.0 <= numbers.min() < 0.001
    assert 0.999 < numbers.max() < 1.0
    assert uniforms([], [], []).shape == (0,)


def test_any_part_of_the_key_gives_another_number() -> None:
    base = (12345, 0, 0)
    others = [(12346, 0, 0), (12345 + 2**32, 0, 0), (12345, 1, 0), (12345, 0, 1), (2**64 - 1, 7, 4095)]
    keys = [base, *others]
    numbers = uniforms([k[0] for k in keys], [k[1] for k in keys], [k[2] for k in keys])
    assert len(set(numbers.tolist())) == len(keys)
    assert uniforms([base[0]], [base[1]], [base[2]])[0] == numbers[0]


@pytest.mark.parametrize("varying", ["seed", "child", "position"])
def test_each_stream_is_uniform_and_uncorrelated(varying: str) -> None:
    count = 1 << 14
    fixed, moving = [7] * count, list(range(count))
    numbers = uniforms(
        moving if varying == "seed" else fixed,
        moving if varying == "child" else fixed,
        moving if varying == "position" else fixed,
    )
    bins = np.bincount((numbers * 64).astype(np.int64), minlength=64)
    chi_square = float(((bins - count / 64) ** 2 / (count / 64)).sum())
    assert chi_square < 104.0  # 99.9 % point of chi-square with 63 degrees of freedom
    centred = numbers - 0.5
    neighbours = float((centred[1:] * centred[:-1]).mean() * 12)
    assert abs(neighbours) < 4 / np.sqrt(count)
