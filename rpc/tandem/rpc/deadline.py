"""Deadlines as durations: what is left of the caller's, and how much of it a server may use."""

from typing import Final

_ANSWER_SHARE: Final = 0.1
_ANSWER_MAX_S: Final = 0.05
_NO_DEADLINE_S: Final = 365 * 24 * 3600.0  # gRPC reports a missing deadline as a time in the far future


def usable_s(time_remaining_s: float | None) -> float | None:
    """Return what a server may use of ``context.time_remaining()``; None = no deadline; never below zero.

    A tenth of it, at most 50 ms, is kept for the answer: whoever ends the call later than the caller's own timer can't
    tell it why any more.
    """
    if time_remaining_s is None or time_remaining_s > _NO_DEADLINE_S:
        return None
    left_s = max(time_remaining_s, 0.0)
    return left_s - min(left_s * _ANSWER_SHARE, _ANSWER_MAX_S)
