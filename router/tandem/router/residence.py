"""How long sequences keep their slots on decode workers, lately. Zero I/O."""

from tandem.router.placement_terms import WorkerView

_SHARE_OF_NEW = 0.05


class Residence:
    """Moving average over attempts that ended well; before the first, what the latency model says of a full worker."""

    def __init__(self) -> None:
        self._mean_s: float | None = None

    def observe(self, seconds: float) -> None:
        """One attempt kept its slots for so long, from its dispatch to its end."""
        mean_s = seconds if self._mean_s is None else self._mean_s
        self._mean_s = mean_s + _SHARE_OF_NEW * (seconds - mean_s)

    def mean_s(self, decodes: list[WorkerView], *, expected_tokens: int) -> float:
        """Seconds that a sequence keeps its slot."""
        if self._mean_s is not None:
            return self._mean_s
        steps_s = [
            view.model.step_s(num_sequences=view.max_sequences, num_context_tokens=view.context_tokens)
            for view in decodes
        ]
        return expected_tokens * min(steps_s, default=0.0)
