"""When a newcomer would see its first token: both stages, from what waits and what they have free. Pure.

::

    prefill_wait = (work ahead + work queued at prefill workers) / prefill workers
    slot_wait    = (sequences ahead + own - free slots)  / slots  · residence      0 while they fit
    block_wait   = (blocks ahead + own - free blocks)    / blocks · residence      0 while they fit
    TTFT         = 1.15 · (max of the three + own prefill) + e95

``residence`` is how long a sequence keeps its slot; with all slots taken, ``slots / residence`` come free per second.
A request is dispatched when both stages have room (late binding), so the slower stage sets the wait. The prefill worker
sends the first token itself, so the hand-over is no part of it. ``e95`` is how much later than predicted the last first
tokens came, at their 95th percentile (see ``errors``). Free slots and blocks are net of reservations.
"""

from dataclasses import dataclass

from tandem.router.admission.backlog import Backlog

MARGIN = 1.15


@dataclass(frozen=True, slots=True, kw_only=True)
class Pools:
    """What both stages offer at present, over all workers that take work."""

    num_servers: int  # workers that compute prompts
    queued_prefill_s: float  # sum over them
    free_slots: int
    total_slots: int
    free_blocks: int
    total_blocks: int
    block_size: int
    residence_s: float  # mean time a sequence keeps its slot


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """The prediction, and its parts in seconds."""

    prefill_wait_s: float
    slot_wait_s: float
    block_wait_s: float
    prefill_s: float
    error_s: float

    @property
    def wait_s(self) -> float:
        """Until it is dispatched."""
        return max(self.prefill_wait_s, self.slot_wait_s, self.block_wait_s)

    @property
    def modelled_s(self) -> float:
        """Until its first token, without the rolling error."""
        return MARGIN * (self.wait_s + self.prefill_s)

    @property
    def ttft_s(self) -> float:
        """Until its first token."""
        return self.modelled_s + self.error_s


def forecast(need: Backlog, *, ahead: Backlog, pools: Pools, error_s: float) -> Forecast:
    """Predict for ``need``, one request's own demand, behind ``ahead``."""
    servers = max(pools.num_servers, 1)
    size = max(pools.block_size, 1)
    return Forecast(
        prefill_wait_s=(ahead.work_s + pools.queued_prefill_s) / servers,
        slot_wait_s=_release_s(
            ahead.num_sequences + need.num_sequences, pools.free_slots, pools.total_slots, pools.residence_s
        ),
        block_wait_s=_release_s(
            (ahead.kv_tokens + need.kv_tokens) / size, pools.free_blocks, pools.total_blocks, pools.residence_s
        ),
        prefill_s=need.work_s,
        error_s=error_s,
    )


def _release_s(wanted: float, free: int, whole: int, residence_s: float) -> float:
    """Time until ``wanted`` places are free, when ``whole`` of them turn over once per residence."""
    if wanted <= free or whole <= 0:
        return 0.0  # without any worker nothing can be predicted; that wait is bounded in time
    return (wanted - free) / whole * residence_s
