"""Deadlines as durations: what is left of the caller's, and how much of it a server may use."""

from typing import Final

_ANSWER_SHARE: Final = 0.1
_ANSWER_MAX_S: Final = 0.05
_ROUNDING: Final = 0.01  # gRPC sends a timeout with two to three digits, rounded up: 10 s may arrive as 10.1 s
_NO_DEADLINE_S: Final = 365 * 24 * 3600.0  # gRPC reports a missing deadline as a time in the far future


def usable_s(time_remaining_s: float | None) -> float | None:
    """Return what a server may use of ``context.time_remaining()``; None = no deadline; never below zero.

    A tenth of it, at most 50 ms, is kept for the answer, and a hundredth more because gRPC rounds it up on the way:
    whoever ends the call later than the caller's own timer can't tell it why any more.
    """
    if time_remaining_s is None or time_remaining_s > _NO_DEADLINE_S:
        return None
    left_s = max(time_remaining_s, 0.0)
    return left_s * (1.0 - _ROUNDING) - min(left_s * _ANSWER_SHARE, _ANSWER_MAX_S)
