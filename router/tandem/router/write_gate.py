"""Fewer, larger messages when the router itself is the bottleneck.

One message per token costs about as much for one token as for ten. While the event loop keeps up, every token leaves at
once and the gate does nothing. When the loop runs late, waiting streams are woken together every ``hold_s`` instead of
one by one, so that what arrives meanwhile leaves in the same message. That trades milliseconds that are lost anyway for
throughput, and ends by itself when the loop is on time again. First tokens, ends and keep-alives never wait here.
"""

import asyncio
from dataclasses import dataclass
from typing import Protocol


class Waking(Protocol):
    """A stream whose caller's coroutine waits."""

    def release(self) -> None:
        """Let it take what there is."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GatePolicy:
    """When to hold, and for how long."""

    late_s: float = 0.008  # smoothed lateness of the loop above which streams are held
    share_of_new: float = 0.3
    hold_per_late: float = 3.0
    min_hold_s: float = 0.01
    max_hold_s: float = 0.05


class WriteGate:
    """Shared by all streams of one event loop."""

    def __init__(self, policy: GatePolicy | None = None) -> None:
        self.hold_s = 0.0  # 0 = open
        self._policy = policy or GatePolicy()
        self._lateness_s = 0.0
        self._held: list[Waking] = []

    def observe(self, lateness_s: float) -> None:
        """Learn by how much the loop was late for something it had planned."""
        policy = self._policy
        self._lateness_s += policy.share_of_new * (max(lateness_s, 0.0) - self._lateness_s)
        if self._lateness_s < policy.late_s:
            self.hold_s = 0.0
        else:
            hold_s = policy.hold_per_late * self._lateness_s
            self.hold_s = min(max(hold_s, policy.min_hold_s), policy.max_hold_s)

    def hold(self, stream: Waking) -> None:
        """Wake ``stream`` with the next batch; call it once per wait."""
        if not self._held:
            asyncio.get_running_loop().call_later(self.hold_s, self._release)
        self._held.append(stream)

    def _release(self) -> None:
        held, self._held = self._held, []
        for stream in held:
            stream.release()
