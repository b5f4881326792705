"""What a tier's blocks cost, learned from what they did cost. Pure; one writer, any reader."""

from collections.abc import Mapping

from tandem.core.kv_events import Tier
from tandem.prefix_cache.tiers.promotion import FetchCost

FIRST_COSTS: Mapping[Tier, FetchCost] = {
    Tier.HOST: FetchCost(fixed_s=0.001, s_per_byte=1.5e-9),  # one pass to verify, some to copy
    Tier.REMOTE: FetchCost(fixed_s=0.003, s_per_byte=5e-9),
}
"""Until something was measured."""
_WEIGHT = 0.2  # of the newest fetch


class MeasuredCost:
    """A `FetchCost` whose part per byte follows the fetches; the fixed part is as given."""

    def __init__(self, first: FetchCost) -> None:
        self.now = first

    def observe(self, *, num_bytes: int, seconds: float) -> None:
        """Take one fetch of ``num_bytes`` that took ``seconds`` in all."""
        if num_bytes <= 0:
            return
        s_per_byte = max(seconds - self.now.fixed_s, 0.0) / num_bytes
        mixed = (1.0 - _WEIGHT) * self.now.s_per_byte + _WEIGHT * s_per_byte
        self.now = FetchCost(fixed_s=self.now.fixed_s, s_per_byte=mixed)
