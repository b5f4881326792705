"""What this router itself has in flight on one worker, since the worker's own reports are a little old. Zero I/O.

Added on dispatch, the prompt's part removed when the prompt is computed, the rest when the attempt ends. Without it,
every request that arrives between two reports would see the same idle worker (herding).
"""

from dataclasses import dataclass, replace

from tandem.core.blocks import AttemptKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What one attempt is predicted to cost one worker."""

    prefill_s: float = 0.0
    prefill_tokens: int = 0
    num_sequences: int = 0
    num_blocks: int = 0
    context_tokens: int = 0


class InFlight:
    """Sum of the charges on one worker."""

    def __init__(self) -> None:
        self._charges: dict[AttemptKey, Charge] = {}
        self.prefill_s = 0.0
        self.prefill_tokens = 0
        self.num_sequences = 0
        self.num_blocks = 0
        self.context_tokens = 0

    def __len__(self) -> int:
        return len(self._charges)

    def add(self, key: AttemptKey, charge: Charge) -> None:
        """Count an attempt; a second time replaces the first."""
        self.remove(key)
        self._charges[key] = charge
        self._apply(charge, 1)

    def settle_prefill(self, key: AttemptKey) -> Charge | None:
        """The prompt is computed: its work is no longer ahead of anybody. Returns the charge as it was."""
        charge = self._charges.get(key)
        if charge is None or (charge.prefill_s == 0.0 and charge.prefill_tokens == 0):
            return charge
        self._apply(charge, -1)
        rest = replace(charge, prefill_s=0.0, prefill_tokens=0)
        self._charges[key] = rest
        self._apply(rest, 1)
        return charge

    def remove(self, key: AttemptKey) -> None:
        """The attempt is over; unknown keys have no effect."""
        charge = self._charges.pop(key, None)
        if charge is not None:
            self._apply(charge, -1)
        if not self._charges:
            self.prefill_s = 0.0  # no drift from adding and subtracting floats

    def clear(self) -> None:
        """The worker is gone, and everything with it."""
        for key in list(self._charges):
            self.remove(key)

    def _apply(self, charge: Charge, sign: int) -> None:
        self.prefill_s += sign * charge.prefill_s
        self.prefill_tokens += sign * charge.prefill_tokens
        self.num_sequences += sign * charge.num_sequences
        self.num_blocks += sign * charge.num_blocks
        self.context_tokens += sign * charge.context_tokens
