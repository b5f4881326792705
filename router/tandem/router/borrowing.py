"""The share of the prompts that decode workers are to compute, as a controller wants it, for as long as it says so.

Who is silent is not followed any longer: without a controller nothing is borrowed but what placement finds faster.
"""

from tandem.core.traffic import Guidance


class Borrowing:
    """What this router was told; a controller of a lower term than one that was heard has no say."""

    def __init__(self) -> None:
        self._term = 0
        self._share = 0.0
        self._until_s = float("-inf")

    def follow(self, guidance: Guidance, now_s: float) -> int:
        """Take it, unless its term is over; return the highest term heard."""
        if guidance.term >= self._term:
            self._term = guidance.term
            self._share = guidance.borrow_share
            self._until_s = now_s + guidance.ttl_s
        return self._term

    def share(self, now_s: float) -> float:
        """The share that holds now."""
        return self._share if now_s < self._until_s else 0.0
