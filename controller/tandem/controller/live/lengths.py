"""How much a request that is under way will have written at its end, from those that are over and those that are not.

What is still being written is longer than it is now: counting only what has ended would see the short answers first,
and for as long as the long ones take, nothing but them. Kaplan and Meier's estimate takes both: with ``d`` of ``n``
requests that came to a length ending there,

    S(length) = Π (1 - d/n)                     the share that is longer
    E[total | g written] = g + ∫_g^∞ S / S(g)

Beyond the longest that was seen nothing is known; there a request is expected to write as much again (as with Pareto's
distribution, where what has lasted lasts). Pure.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import groupby


class Lengths:
    """The expected total of a request that has written so much."""

    def __init__(self, ended: Sequence[int], written: Sequence[int]) -> None:
        """``ended``: totals of those that are over; ``written``: what the others have written so far."""
        marks = sorted([(length, 1) for length in ended] + [(length, 0) for length in written])
        num_left = len(marks)
        self._at: list[float] = [0.0]
        self._survive: list[float] = [1.0]  # beyond the length of the same index
        for length, group in groupby(marks, key=lambda mark: mark[0]):
            ends = [over for _, over in group]
            survive = self._survive[-1] * (1.0 - sum(ends) / num_left)
            num_left -= len(ends)
            self._at.append(float(length))
            self._survive.append(survive)
        self._beyond = [0.0] * len(self._at)  # ∫ S from the length of the same index
        self._beyond[-1] = self._at[-1] * self._survive[-1]
        for index in range(len(self._at) - 2, -1, -1):
            width = self._at[index + 1] - self._at[index]
            self._beyond[index] = self._beyond[index + 1] + width * self._survive[index]

    def total(self, written: int) -> float:
        """Return the expected total of a request that has written ``written`` tokens and is not over."""
        if written >= self._at[-1]:
            return 2.0 * written if written else 1.0
        index = bisect_left(self._at, written + 1e-9)  # first length above
        survive = self._survive[index - 1]
        if survive <= 0.0:
            return 2.0 * written
        left = self._beyond[index] + (self._at[index] - written) * survive
        return written + left / survive
