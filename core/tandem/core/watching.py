"""A cluster over time: samples that a router takes every few seconds, for who watches. Zero I/O."""

from dataclasses import dataclass

import msgspec

from tandem.core.cluster import ClusterStatus


class ClassSample(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How one class fared since the sample before. Requests that their callers gave up are in no count."""

    priority: str
    num_queued: int = 0  # now
    num_ok: int = 0
    num_shed: int = 0  # refused, or shed while they waited
    num_other: int = 0  # failed, or past their deadline
    num_in_time: int | None = None  # with the promised time to first token; None: nothing is promised
    ttft_p50_s: float | None = None
    ttft_p95_s: float | None = None


class ClusterSample(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The cluster at one time, and what happened since the sample before."""

    unix_s: float
    period_s: float
    num_prefill: int = 0  # workers that take work
    num_decode: int = 0
    num_queued: int = 0
    num_running: int = 0
    output_tokens: int = 0
    prompt_tokens: int = 0  # of requests that ended well
    cached_tokens: int = 0
    num_split: int = 0
    num_local: int = 0
    num_retried: int = 0
    classes: tuple[ClassSample, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterView:
    """The cluster now, and the samples that the watcher has not got yet, oldest first."""

    status: ClusterStatus
    samples: tuple[ClusterSample, ...] = ()
